"""Interfaces in other network namespaces, of which sysfs shows nothing."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.native.test_holders import ID, NIC, ROUTES, Machine

if TYPE_CHECKING:
    from pathlib import Path

PATH = "sys/devices/pci0000:00/0000:05:00.0"
# dev_seq_show and dev_seq_printf_stats in net/core/net-procfs.c, without the last columns.
DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0
ens1f0:  104923     812    0    0    0     0          0         0    52211     402    0    0    0
  eth1:       0       0    0    0    0     0          0         0        0       0    0    0    0
"""
TRIE = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.0.2\n        /32 host LOCAL\n"
HOST, OTHER, EMPTY = (f"net:[40265318{number}]" for number in (40, 41, 42))


@pytest.fixture
def nic(tmp_path: Path) -> Machine:
    """A network card whose interface was moved away."""
    machine = Machine(tmp_path)
    machine.function("0000:05:00.0", modalias=NIC, bridge="pci0000:00")
    (machine.root / PATH / "net").mkdir()
    machine.link("proc/1/ns/net", HOST)
    return machine


def container(machine: Machine) -> None:
    """A container with two interfaces; two of its processes, and one that has only lo."""
    for pid, namespace in ((60, OTHER), (61, OTHER), (70, EMPTY), (80, HOST)):
        machine.process(pid, "db", ["db"], cgroup=f"0::/system.slice/docker-{ID}.scope\n")
        machine.link(f"proc/{pid}/ns/net", namespace)
    machine.write("proc/60/net/dev", DEV)
    machine.write("proc/60/net/fib_trie", TRIE)
    machine.write(
        "proc/60/net/route",
        f"{ROUTES}ens1f0\t0000010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
    )
    machine.write("proc/61/net/dev", DEV.replace("eth1", "eth9"))  # never read
    machine.write("proc/70/net/dev", "\n".join(DEV.splitlines()[:3]))
    machine.write("proc/80/net/dev", DEV.replace("eth1", "eth9"))


def test_an_interface_elsewhere_is_in_use(nic: Machine) -> None:
    usage = nic.usage()
    (use,) = usage.uses
    assert (use.kind, use.via) == ("interface-elsewhere", f"/{PATH}/net")
    assert use.detail == "it has an interface in another network namespace (a container's)"
    (said,) = usage.incomplete
    assert said == (
        "0000:05:00.0 has an interface in another network namespace (a container's): which one it "
        "is there, and what it is used for, no file says."
    )


def test_who_has_interfaces_elsewhere_is_said(nic: Machine) -> None:
    container(nic)
    (use,) = nic.usage().uses
    assert use.detail.endswith(
        "; others have: pid 60 (db) in container 4a3e4a3e4a3e ens1f0 (10.1.0.2), eth1"
    )


def test_a_namespace_without_a_process(nic: Machine) -> None:
    """ip netns add: nsfs shows the namespace as the root of its mount (ns_dname in fs/nsfs.c)."""
    line = "80 25 0:4 {} /run/netns/{} rw shared:91 - nsfs nsfs rw\n"
    container(nic)
    text = line.format("net:[4026531999]", "blue") + line.format(OTHER, "red")
    nic.write("proc/1/mountinfo", text + line.format(HOST, "host") + line.format("/", "x"))
    (use,) = nic.usage().uses
    assert use.detail.endswith("eth1; /run/netns/blue (no process is in it)")


def test_the_links_of_namespaces_take_root(nic: Machine) -> None:
    container(nic)
    (nic.root / "proc/1/ns/net").unlink()
    (use,) = nic.usage().uses
    assert "others have" not in use.detail


def test_few_of_many_namespaces_are_named(nic: Machine) -> None:
    for pid in range(100, 400):
        nic.link(f"proc/{pid}/ns/net", f"net:[{pid}]")
        nic.write(f"proc/{pid}/net/dev", DEV)
    (use,) = nic.usage().uses
    assert use.detail.endswith("pid 104 (?) ens1f0, eth1; and 251 more namespaces")


@pytest.mark.parametrize("child", ["virtio0", "mlx5_core.sf.4"])
def test_the_interface_may_be_that_of_a_device_below(nic: Machine, child: str) -> None:
    (nic.root / PATH / child).mkdir()
    shutil.move(nic.root / PATH / "net", nic.root / PATH / child / "net")
    (use,) = nic.usage().uses
    assert (use.kind, use.via) == ("interface-elsewhere", f"/{PATH}/{child}/net")


def test_an_interface_in_sight_is_not_elsewhere(nic: Machine) -> None:
    container(nic)
    nic.in_class("net", f"{PATH}/net/eth0")
    nic.write("sys/class/net/eth0/flags", "0x1002\n")
    assert nic.said() == []
    shutil.rmtree(nic.root / PATH / "net")
    (nic.root / "sys/class/net/eth0").unlink()
    assert nic.said() == []
