"""VFIO's ioctls: what becomes of their answers. A real VFIO is asked by the tests in a VM."""

from __future__ import annotations

import errno
import gc
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiohost import vfio
from vfiohost._native import ffi
from vfiohost.errors import KernelError
from vfiohost.native import ioctls
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
    monkeypatch.setattr(ioctls, "group_get_status", lambda _, shown: 1)
    gc.collect()  # what earlier tests have left open is closed now, and not while it is counted
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
        monkeypatch.setattr(ioctls, "lib", self)

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


REGION_CAPS = 1 << 3


def region_of(
    index: int, flags: int, size: int, offset: int, *capabilities: tuple[int, int, int, bytes]
) -> bytes:
    """Make a struct vfio_region_info; capabilities as for :func:`info_of`."""
    raw = bytearray(256)
    first = capabilities[0][0] if capabilities else 0
    struct.pack_into("=IIIIQQ", raw, 0, 256, flags, index, first, size, offset)
    for start, number, following, data in capabilities:
        struct.pack_into("=HHI", raw, start, number, 1, following)
        raw[start + 8 : start + 8 + len(data)] = data
    return bytes(raw)


class Region:
    """A kernel with one region to tell of."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.sizes: list[int] = []

    def vh_device_get_region_info(self, _fd: int, _index: int, buffer: Any, size: int) -> int:
        self.sizes.append(size)
        ffi.memmove(buffer, self.raw[:size], min(size, len(self.raw)))
        return len(self.raw)


@given(
    index=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 7),
    size=st.integers(0, 2**64 - 1),
    offset=st.integers(0, 2**64 - 1),
)
def test_every_field_of_a_region_is_where_the_kernel_puts_it(
    index: int, flags: int, size: int, offset: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ioctls, "lib", Region(region_of(index, flags, size, offset)))
        region = vfio.device_get_region_info(7, 1)
    assert region == vfio.RegionInfo(index, flags, size, offset)
    wanted = [name for bit, name in enumerate(("read", "write", "mmap")) if flags >> bit & 1]
    assert list(region.flag_names) == wanted


@given(st.binary(min_size=32, max_size=600))
def test_a_region_of_any_bytes_is_read_to_its_end(raw: bytes) -> None:
    kernel = Region(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ioctls, "lib", kernel)
        region = vfio.device_get_region_info(7, 1)
    assert kernel.sizes == ([256] if len(raw) <= 256 else [256, len(raw)])
    assert bool(region.flags & REGION_CAPS) or not region.capabilities
    assert all(len(each.data) <= len(raw.ljust(256)) for each in region.capabilities)


def test_the_capabilities_of_a_region(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = region_of(7, 7 | REGION_CAPS, 4096, 1 << 40, (32, 3, 64, b"msix"), (64, 1, 0, b"areas"))
    monkeypatch.setattr(ioctls, "lib", Region(raw))
    region = vfio.device_get_region_info(7, 1)
    assert [(c.id, c.data[:4]) for c in region.capabilities] == [(3, b"msix"), (1, b"area")]


def test_what_is_no_device_has_no_regions_and_no_interrupts() -> None:
    fd = os.memfd_create("no device")
    try:
        for ask in (vfio.device_get_region_info, vfio.device_get_irq_info):
            assert error_of(lambda a=ask: a(fd, 0, shown="it")) == ("ioctl", "ENOTTY", "it")  # type: ignore[misc]
    finally:
        os.close(fd)


def test_an_error_names_the_ioctl_and_what_it_means() -> None:
    error = KernelError("ioctl", errno.EPERM, "/dev/vfio/8", "GROUP_SET_CONTAINER")
    assert str(error) == (
        "Cannot ioctl GROUP_SET_CONTAINER of /dev/vfio/8: Operation not permitted (EPERM). "
        "The group is not viable: a host driver has a device of it."
    )


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_only_a_character_device_is_opened(tmp_path: Path, kind: str) -> None:
    node = tmp_path / "dev/vfio/vfio"
    node.parent.mkdir(parents=True)
    if kind == "file":
        node.touch()
    elif kind == "link":
        node.symlink_to("/dev/null")
    else:
        os.mkfifo(node)
    with Sysfs(tmp_path) as sysfs:
        said = error_of(lambda: vfio.open_node(sysfs, "dev/vfio/vfio"))
    assert said == ("open", "ENOTTY", str(node))
