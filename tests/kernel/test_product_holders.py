"""What is in use on a real kernel: named by ``holders``, and not taken away."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.command import as_json, disk_of, driver, vfiohost, wait_for_users
from tests.kernel.lab import guest, layout, product, vfio_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kernel.lab.vm import Machine

A10 = layout.A10S[0]
PLACE = "/run/vfiohost-lab-disk"
DEBIANS = ("6.12", "6.1")
"""The kernel that the lab builds has no swap, no IPv6 and no bridges."""


def run(lab: Machine, *command: str) -> str:
    done = lab.call(guest.run, list(command))
    assert done["status"] == 0, done["stdout"] + done["stderr"]
    return str(done["stdout"])


def refused(lab: Machine, *arguments: str) -> list[dict[str, Any]]:
    """The reasons of a refusal."""
    done = lab.call(product.vfiohost, "--json", *arguments)
    assert done["status"] == 4, done["stdout"] + done["stderr"]
    found: list[dict[str, Any]] = json.loads(done["stdout"])["error"]["refusals"]
    return found


@contextmanager
def mounted(lab: Machine) -> Iterator[str]:
    """A file system that every kernel knows, on the NVMe disk; the name of the disk."""
    disk = disk_of(lab)
    run(lab, "mkfs.ext2", "-q", "-F", f"/dev/{disk}")
    run(lab, "mkdir", "-p", PLACE)
    run(lab, "mount", f"/dev/{disk}", PLACE)
    try:
        yield disk
    finally:
        run(lab, "umount", PLACE)


def test_a_mounted_disk_is_refused_by_name(lab: Machine) -> None:
    with mounted(lab) as disk:
        (refusal,) = refused(lab, "bind", layout.NVME)
        assert (refusal["code"], refusal["kind"]) == ("in-use", "mount")
        assert refusal["sentence"] == f"{layout.NVME} is in use: {disk} is mounted at {PLACE}."
        assert refusal["via"] == "/proc/1/mountinfo"
        said = vfiohost(lab, "bind", layout.NVME, exits=4)
        assert f"{disk} is mounted at {PLACE}. [in-use]" in said
        assert "permit it with --allow storage" in said
        run(lab, "touch", f"{PLACE}/still-there")
    assert driver(lab, layout.NVME) == "nvme"
    vfiohost(lab, "bind", layout.NVME)
    assert driver(lab, layout.NVME) == "vfio-pci"


@pytest.mark.flavours(*DEBIANS)
def test_swap_and_an_open_disk_are_refused(lab: Machine) -> None:
    disk = disk_of(lab)
    run(lab, "mkswap", f"/dev/{disk}")
    run(lab, "swapon", f"/dev/{disk}")
    try:
        assert [r["kind"] for r in refused(lab, "bind", layout.NVME)] == ["swap"]
    finally:
        run(lab, "swapoff", f"/dev/{disk}")
    lab.call(vfio_user.keep_open, f"/dev/{disk}", worker="reader")
    (refusal,) = refused(lab, "unbind", layout.NVME)
    assert refusal["kind"] == "storage-user"
    lab.kill("reader")


@pytest.mark.flavours(*DEBIANS)
def test_a_disk_that_mountinfo_does_not_name(lab: Machine) -> None:
    """The journal of a file system elsewhere, and a loop device on the disk."""
    run(lab, "modprobe", "loop")
    disk, image = f"/dev/{disk_of(lab)}", f"{PLACE}.img"
    run(lab, "mke2fs", "-q", "-F", "-b", "4096", "-O", "journal_dev", disk)
    run(lab, "truncate", "-s", "64M", image)
    run(lab, "mkfs.ext4", "-q", "-F", "-b", "4096", "-J", f"device={disk}", image)
    run(lab, "mkdir", "-p", PLACE)
    run(lab, "mount", "-o", "loop", image, PLACE)
    try:
        (refusal,) = refused(lab, "bind", layout.NVME)
        assert (refusal["kind"], refusal["via"]) == ("mount", f"/proc/fs/jbd2/{disk[5:]}")
    finally:
        run(lab, "umount", PLACE)
        run(lab, "rm", image)
    loop = run(lab, "losetup", "--find", "--show", disk).strip()
    try:
        (refusal,) = refused(lab, "bind", layout.NVME)
        assert (refusal["kind"], refusal["detail"]) == (
            "block-holder",
            f"{loop[5:]} is made of {disk[5:]}",
        )
    finally:
        run(lab, "losetup", "--detach", loop)
    vfiohost(lab, "bind", layout.NVME)


@pytest.mark.flavours(*DEBIANS)
def test_an_interface_that_is_up_or_elsewhere_is_refused(lab: Machine) -> None:
    (interface,) = lab.call(guest.listdir, f"/sys/bus/pci/devices/{layout.PCIE_NIC}/net")
    ipv6 = f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"
    assert lab.call(guest.store, ipv6, "1") is None
    run(lab, "ip", "link", "set", interface, "up")
    (refusal,) = refused(lab, "bind", layout.PCIE_NIC)
    assert (refusal["kind"], refusal["detail"]) == ("interface-up", f"{interface} is up")
    run(lab, "ip", "link", "set", interface, "down")
    run(lab, "ip", "netns", "add", "lab")
    try:
        run(lab, "ip", "link", "set", interface, "netns", "lab")
        assert lab.call(guest.listdir, f"/sys/bus/pci/devices/{layout.PCIE_NIC}/net") == []
        (refusal,) = refused(lab, "bind", layout.PCIE_NIC)
        assert refusal["kind"] == "interface-elsewhere"
        assert "/run/netns/lab (no process is in it)" in refusal["detail"]
        vfiohost(lab, "bind", layout.PCIE_NIC, "--allow", "network")
    finally:
        run(lab, "ip", "netns", "del", "lab")


@pytest.mark.flavours(*DEBIANS)
def test_the_way_to_the_network_is_refused_by_name(lab: Machine) -> None:
    (interface,) = lab.call(guest.listdir, f"/sys/bus/pci/devices/{layout.NIC}/net")
    # QEMU's network announces itself to IPv6.
    ipv6 = f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"
    assert lab.call(guest.store, ipv6, "1") is None
    run(lab, "ip", "address", "add", "192.0.2.15/24", "dev", interface)
    run(lab, "ip", "link", "set", interface, "up")
    run(lab, "ip", "route", "add", "default", "via", "192.0.2.2", "dev", interface)
    try:
        reasons = {r["kind"]: r["sentence"] for r in refused(lab, "bind", layout.NIC)}
        assert reasons == {
            "address": f"{layout.NIC} is in use: {interface} has the address 192.0.2.15.",
            "default-route": f"{layout.NIC} is in use: {interface} has the default route of IPv4.",
        }
        assert driver(lab, layout.NIC) == "e1000"
        assert len(refused(lab, "bind", layout.NIC, "--allow", "storage,display")) == 2
        run(lab, "ip", "route", "del", "default")
        (refusal,) = refused(lab, "bind", layout.NIC)
        assert refusal["kind"] == "address"
    finally:
        run(lab, "ip", "address", "flush", "dev", interface)
        run(lab, "ip", "link", "set", interface, "down")
    vfiohost(lab, "bind", layout.NIC)
    assert driver(lab, layout.NIC) == "vfio-pci"


@pytest.mark.flavours(*DEBIANS)
def test_the_member_of_a_bridge_is_refused(lab: Machine) -> None:
    (interface,) = lab.call(guest.listdir, f"/sys/bus/pci/devices/{layout.PCIE_NIC}/net")
    run(lab, "ip", "link", "add", "br0", "type", "bridge")
    try:
        run(lab, "ip", "link", "set", interface, "master", "br0")
        (refusal,) = refused(lab, "bind", layout.PCIE_NIC)
        assert (refusal["kind"], refusal["detail"]) == (
            "network-member",
            f"{interface} is a part of br0",
        )
    finally:
        run(lab, "ip", "link", "del", "br0")


def test_an_a10_with_running_vgpus_is_refused_by_name(lab: Machine) -> None:
    lab.call(guest.load, "nvidia", "sriov=1")
    lab.call(guest.store, f"/sys/bus/pci/devices/{A10}/sriov_numvfs", "4")
    made = vfiohost(lab, "mdev", "create", "-p", A10, "-t", "A10-12Q", "-n", "2").splitlines()
    uuids = [line.split()[0] for line in made]
    assert lab.call(vfio_user.open_device, uuids[0], worker="qemu") == "ok"
    pid = lab.call(vfio_user.pid, worker="qemu")
    reasons = refused(lab, "bind", A10)
    assert [r["code"] for r in reasons] == ["pf-with-vfs", "mdevs-exist", "in-use"]
    assert all(uuid in reasons[1]["sentence"] for uuid in uuids)
    assert reasons[2]["subject"] == uuids[0]
    assert f"pid {pid} (" in reasons[2]["sentence"]
    assert [r["kind"] for r in refused(lab, "mdev", "remove", *uuids)] == ["vfio-user"]
    assert lab.call(guest.listdir, "/sys/bus/mdev/devices") == sorted(uuids)
    assert driver(lab, A10) == "nvidia"
    lab.call(vfio_user.close, worker="qemu")
    vfiohost(lab, "mdev", "remove", *uuids)


@pytest.mark.parametrize("only_group", [False, True])
def test_who_has_a_device_open_is_named(lab: Machine, *, only_group: bool) -> None:
    """``enable`` tells whether it is the device or only its group (edge cases 27 and 57)."""
    vfiohost(lab, "bind", layout.NIC)
    assert as_json(lab, "holders", layout.NIC)["uses"] == []
    opened = lab.call(vfio_user.open_device, layout.NIC, only_group=only_group, worker="qemu")
    assert opened == "ok"
    pid = lab.call(vfio_user.pid, worker="qemu")
    found = as_json(lab, "holders", layout.NIC)
    assert found["incomplete"] == []
    (use,) = found["uses"]
    assert use["kind"] == ("vfio-group" if only_group else "vfio-user")
    assert (use["process"]["pid"], use["process"]["user"]) == (pid, "root")
    command = lab.call(guest.read, f"/proc/{pid}/cmdline").replace("\0", " ").strip()
    assert use["process"]["command"] == command
    shown = vfiohost(lab, "holders", layout.NIC).splitlines()
    assert shown[1].split()[:4] == [layout.NIC, use["kind"], str(pid), "root"]
    (refusal,) = refused(lab, "unbind", layout.NIC)
    assert (refusal["kind"], f"pid {pid} (" in refusal["sentence"]) == (use["kind"], True)
    assert driver(lab, layout.NIC) == "vfio-pci"
    lab.kill("qemu")


def test_who_keeps_an_unbind_waiting_is_named(lab: Machine) -> None:
    vfiohost(lab, "bind", layout.NIC)
    assert lab.call(vfio_user.open_device, layout.NIC, worker="qemu") == "ok"
    pid = lab.call(vfio_user.pid, worker="qemu")
    unbind = lab.submit(
        guest.store, "/sys/bus/pci/drivers/vfio-pci/unbind", layout.NIC, worker="stuck"
    )
    wait_for_users(lab, "stuck")
    assert driver(lab, layout.NIC) is None
    (use,) = as_json(lab, "holders", layout.NIC)["uses"]
    assert (use["kind"], use["process"]["pid"]) == ("vfio-user", pid)
    lab.call(vfio_user.close, worker="qemu")
    assert unbind.result() is None
