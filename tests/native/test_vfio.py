"""VFIO's ioctls: what becomes of their answers. A real VFIO is asked by the tests in a VM."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from vfiohost import native, vfio
from vfiohost._native import ffi
from vfiohost.errors import KernelError
from vfiohost.sysfs import Sysfs
from vfiohost.vfio import Capability, DeviceInfo, GroupStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def error_of(call: Callable[[], object]) -> tuple[str, str, str]:
    with pytest.raises(KernelError) as caught:
        call()
    return caught.value.op, caught.value.code, caught.value.path


def test_what_is_no_vfio_group(tmp_path: Path) -> None:
    (tmp_path / "dev/vfio").mkdir(parents=True)
    (tmp_path / "dev/vfio/8").touch()
    (tmp_path / "dev/vfio/noiommu-9").touch()
    os.mkfifo(tmp_path / "dev/vfio/10")
    with Sysfs(tmp_path) as sysfs:
        nodes = {8: "8", 9: "noiommu-9"}
        for group, node in nodes.items():
            shown = f"{tmp_path}/dev/vfio/{node}"
            assert error_of(lambda g=group: vfio.group_get_status(sysfs, g)) == (  # type: ignore[misc]
                "ioctl",
                "ENOTTY",
                shown,
            )
        op, code, _ = error_of(lambda: vfio.group_get_status(sysfs, 10))
        assert op == "ioctl"
        assert code in ("ENOTTY", "EINVAL")
        absent = ("open", "ENOENT", f"{tmp_path}/dev/vfio/11")
        assert error_of(lambda: vfio.group_get_status(sysfs, 11)) == absent


def test_what_is_no_vfio_device(tmp_path: Path) -> None:
    fd = os.memfd_create("no device")
    try:
        assert error_of(lambda: vfio.device_get_info(fd, shown="it")) == ("ioctl", "ENOTTY", "it")
    finally:
        os.close(fd)
    assert error_of(lambda: vfio.device_get_info(-1, shown="it")) == ("ioctl", "EBADF", "it")


def test_a_groups_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dev/vfio").mkdir(parents=True)
    (tmp_path / "dev/vfio/8").touch()
    monkeypatch.setattr(native, "group_get_status", lambda _, shown: 1)
    before = len(list(os.scandir("/proc/self/fd")))
    with Sysfs(tmp_path) as sysfs:
        assert vfio.group_get_status(sysfs, 8) == GroupStatus(1)
    assert len(list(os.scandir("/proc/self/fd"))) == before
    assert GroupStatus(1).is_viable
    assert not GroupStatus(1).has_container
    assert not GroupStatus(0).is_viable
    assert GroupStatus(3).has_container


class Device:
    """A kernel that says how much room it wants, and fills what it gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *wanted: int, info: bytes = b"") -> None:
        self.wanted = list(wanted)
        self.sizes: list[int] = []
        self.info = info
        monkeypatch.setattr(native, "lib", self)

    def vh_device_get_info(self, _fd: int, buffer: Any, size: int) -> int:
        self.sizes.append(size)
        content = self.info[:size]
        ffi.memmove(buffer, content, len(content))
        return self.wanted.pop(0) if len(self.wanted) > 1 else self.wanted[0]


def info_of(flags: int, *capabilities: tuple[int, int, int, bytes], size: int = 256) -> bytes:
    """Make a struct vfio_device_info; a capability is offset, id, next offset and data."""
    info = bytearray(size)
    struct.pack_into("=5I", info, 0, size, flags, 9, 5, capabilities[0][0] if capabilities else 0)
    for offset, number, following, data in capabilities:
        struct.pack_into("=HHI", info, offset, number, 1, following)
        info[offset + 8 : offset + 8 + len(data)] = data
    return bytes(info)


def test_what_an_ordinary_device_says(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, 256, info=info_of(vfio.DEVICE_FLAGS_PCI | 1))
    info = vfio.device_get_info(7)
    assert info == DeviceInfo(3, num_regions=9, num_irqs=5)
    assert info.is_pci
    assert info.can_reset
    assert device.sizes == [256]


def test_a_kernel_with_more_to_say_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = vfio.DEVICE_FLAGS_PCI | vfio.DEVICE_FLAGS_CAPS
    raw = info_of(flags, (24, 1, 64, b"one"), (64, 2, 0, b"two" * 200), size=700)
    device = Device(monkeypatch, 700, info=raw)
    first, second = vfio.device_get_info(7).capabilities
    assert device.sizes == [256, 700]
    assert (first.id, first.version, first.data[:3]) == (1, 1, b"one")
    assert len(first.data) == 64 - 24 - 8
    assert second.data.rstrip(b"\0") == b"two" * 200


@pytest.mark.parametrize("wanted", [[300, 400, 500, 600], [1 << 21]])
def test_a_kernel_that_never_has_enough(monkeypatch: pytest.MonkeyPatch, wanted: list[int]) -> None:
    Device(monkeypatch, *wanted, 1 << 21)
    assert error_of(lambda: vfio.device_get_info(7, shown="it")) == ("ioctl", "EOVERFLOW", "it")


def test_a_chain_of_capabilities_that_leads_nowhere_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = vfio.DEVICE_FLAGS_CAPS
    Device(monkeypatch, 256, info=info_of(flags, (24, 1, 24, b"")))
    assert [c.id for c in vfio.device_get_info(7).capabilities] == [1]
    Device(monkeypatch, 256, info=info_of(flags, (24, 1, 64, b""), (64, 2, 24, b"")))
    assert [c.id for c in vfio.device_get_info(7).capabilities] == [1, 2]
    Device(monkeypatch, 256, info=info_of(flags, (24, 1, 1000, b"")))
    assert vfio.device_get_info(7).capabilities == (Capability(1, 1, bytes(256 - 32)),)
    Device(monkeypatch, 256, info=info_of(flags, (248, 7, 252, b"")))
    assert vfio.device_get_info(7).capabilities == (Capability(7, 1, b""),)
    Device(monkeypatch, 256, info=info_of(flags))
    assert vfio.device_get_info(7).capabilities == ()
