"""Edge cases 34 to 37: reset and its methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from tests.simulation.hosts import (
    GPU_VFS,
    NIC,
    NIC_SIBLING,
    NVME,
    NVME_VFS,
    PORT,
    QAT,
    Shell,
    answers,
    having,
    small_host,
)
from vfiohost import testing
from vfiohost.errors import StoreTimeoutError

if TYPE_CHECKING:
    from pathlib import Path

    from vfiohost.recording import Recording

QEMU_PORT = b"pci:v00001B36d0000000Csv00000000sd00000000bc06sc04i00\n"


def resettable() -> Recording:
    return having(
        small_host(),
        {
            PORT: {"reset_subordinate": b""},
            NIC: {"reset_method": b"pm bus\n"},
            NIC_SIBLING: {"reset_method": b"pm\n"},
            NVME: {"reset_method": b"flr bus\n"},
            QAT: {"reset": b""},
            GPU_VFS[0]: {"reset_method": b"flr\n"},
        },
    )


@pytest.fixture
def host(scratch: Path) -> Shell:
    return Shell(testing.create(resettable(), scratch / "host"))


@pytest.fixture
def in_qemu(scratch: Path) -> Shell:
    """The same host with QEMU's port, whose link stays down after a reset."""
    recording = having(resettable(), {PORT: {"modalias": QEMU_PORT}})
    return Shell(testing.create(recording, scratch / "host"))


def reset(host: Shell, address: str, value: str = "1", *, timeout: float = 5.0) -> None:
    host.echo(value, f"sys/bus/pci/devices/{address}/reset", timeout=timeout)


def choose(host: Shell, address: str, names: str) -> None:
    host.echo(names, f"sys/bus/pci/devices/{address}/reset_method")


def methods(host: Shell, address: str) -> str:
    return host.cat(f"sys/bus/pci/devices/{address}/reset_method")


@pytest.mark.parametrize("value", ["0", "2", "x", "-1", "1 1", "\n", "1\n\n"])
def test_34_only_one_resets(host: Shell, value: str) -> None:
    with answers("EINVAL"):
        reset(host, NVME, value)


@pytest.mark.parametrize("value", ["1", "1\n", "0x1", "01"])
def test_34_one_in_any_base_resets_a_bound_device(host: Shell, value: str) -> None:
    reset(host, NVME, value)
    assert host.driver(NVME) == "nvme"


def test_34_an_open_device_is_reset_all_the_same(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME):
        reset(host, NVME)


def test_34_a_reset_wakes_a_device_that_nobody_has_used(host: Shell) -> None:
    host.unbind("nvme", NVME)
    assert host.cat(f"sys/bus/pci/devices/{NVME}/power_state") == "unknown"
    reset(host, NVME)
    assert host.cat(f"sys/bus/pci/devices/{NVME}/power_state") == "D0"


def test_34_a_reset_waits_behind_a_stuck_unbind(host: Shell) -> None:
    host.to_vfio(NVME)
    holder = host.kernel.open_device(NVME)
    with pytest.raises(StoreTimeoutError):
        host.unbind("vfio-pci", NVME, timeout=0)
    with pytest.raises(StoreTimeoutError):
        reset(host, NVME, timeout=0)
    with answers("EINVAL"):  # that is looked at first
        reset(host, NVME, "0")
    assert [path.rsplit("/", 1)[-1] for path, _ in host.kernel.pending] == ["unbind", "reset"]
    # It has the port's lock already.
    with pytest.raises(StoreTimeoutError):
        host.unbind("pcieport", PORT, timeout=0)
    holder.close()
    assert host.kernel.pending == []
    assert [answer.errno for answer in host.kernel.answers[-4:]] == [0, 0, 22, 0]


def test_40_a_reset_that_waited_for_a_removal_is_done(host: Shell) -> None:
    # reset_store (drivers/pci/pci-sysfs.c) runs until its end, for which the removal waits
    # (kernfs_drain); nothing in there asks whether the function is on its way out.
    host.to_vfio(NVME)
    path = f"sys/bus/pci/devices/{NVME}"
    with host.kernel.open_device(NVME):
        with pytest.raises(StoreTimeoutError):
            host.echo("1", f"{path}/remove", timeout=0)
        with pytest.raises(StoreTimeoutError):
            reset(host, NVME, timeout=0)
    assert not host.exists(path)
    assert [answer.errno for answer in host.kernel.answers[-2:]] == [0, 0]


def test_35_who_has_no_method_has_no_reset(host: Shell) -> None:
    with answers("ENOENT", "open"):
        reset(host, GPU_VFS[1])


def test_35_a_recording_that_does_not_tell_the_methods_can_be_reset(host: Shell) -> None:
    reset(host, QAT)
    with answers("EINVAL"):
        reset(host, QAT, "0")
    with answers("ENOENT", "open"):
        choose(host, QAT, "flr")


def test_35_a_new_virtual_function_has_flr(host: Shell) -> None:
    host.numvfs(NVME, "1")
    assert methods(host, NVME_VFS[0]) == "flr"
    reset(host, NVME_VFS[0])
    choose(host, NVME_VFS[0], "default")
    assert methods(host, NVME_VFS[0]) == "flr"
    with answers("EINVAL"):
        choose(host, NVME_VFS[0], "bus")


@pytest.mark.parametrize(
    "names", ["pm", "nosuch", "flr pm", "flr,bus", "FLR", "flr\nbus", " ".join(["flr"] * 8)]
)
def test_36_what_is_not_supported_leaves_the_previous_method(host: Shell, names: str) -> None:
    choose(host, NVME, "bus")
    with answers("EINVAL"):
        choose(host, NVME, names)
    assert methods(host, NVME) == "bus"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("bus flr", "bus flr"),
        (" bus  flr \n", "bus flr"),
        ("flr flr", "flr flr"),
        ("flr\n\n", "flr"),
        ("", "flr bus"),
        (" ", ""),
        ("\n", ""),
    ],
)
def test_36_methods_are_words_between_spaces(host: Shell, names: str, found: str) -> None:
    choose(host, NVME, names)
    assert methods(host, NVME) == found
    choose(host, NVME, "default\n")
    assert methods(host, NVME) == "flr bus"


def test_36_without_a_method_the_file_stays_and_answers_enotty(host: Shell) -> None:
    choose(host, NVME, "\n")
    with answers("ENOTTY"):
        reset(host, NVME)
    with answers("EINVAL"):
        reset(host, NVME, "0")


def test_36_the_bus_is_reset_for_a_function_that_is_alone_on_it(host: Shell) -> None:
    with answers("EINVAL"):
        choose(host, NIC, "bus")
    choose(host, NIC, "default")  # it was alone when it was found
    assert methods(host, NIC) == "pm"
    host.numvfs(NVME, "1")
    with answers("EINVAL"):
        choose(host, NVME, "bus")
    host.numvfs(NVME, "0")
    choose(host, NVME, "bus")


def test_36_the_next_method_is_tried_when_one_does_not_work(in_qemu: Shell) -> None:
    choose(in_qemu, NVME, "bus")
    with answers("ENOTTY"):
        reset(in_qemu, NVME)
    choose(in_qemu, NVME, "bus flr")
    reset(in_qemu, NVME)


def reset_bus(host: Shell, value: str = "1") -> None:
    host.echo(value, f"sys/bus/pci/devices/{PORT}/reset_subordinate")


def test_37_a_port_resets_all_that_is_behind_it(host: Shell) -> None:
    reset_bus(host)
    reset_bus(host, "2")
    reset_bus(host, "0")
    with answers("EINVAL"):
        reset_bus(host, "x")
    assert host.driver(NVME) == "nvme"


def test_37_the_link_of_qemus_port_does_not_come_back(in_qemu: Shell) -> None:
    with answers("ENOTTY"):
        reset_bus(in_qemu)
    reset_bus(in_qemu, "0")


def test_37_nothing_behind_the_port_is_missed(scratch: Path) -> None:
    recording = having(resettable(), {PORT: {"modalias": QEMU_PORT}})
    alone = tuple(each for each in recording.functions if str(each.address) == PORT)
    recording = attrs.evolve(recording, functions=alone, mdev_tables=(), virtual_parents=())
    reset_bus(Shell(testing.create(recording, scratch / "host")))


def test_37_nobody_waits_for_a_busy_bus(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME):
        reset_bus(host)  # open is not locked
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", NVME, timeout=0)
        with answers("EAGAIN"):
            reset_bus(host)
    reset_bus(host)
