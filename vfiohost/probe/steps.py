"""The steps of a probe, in a helper process: each is announced, done, and told of.

One JSON object a line goes to standard output: ``{"begin": NAME}`` before a step, then ``{"ok":
DETAIL}`` or ``{"failed": DETAIL, "error": {...}}``, which is the last one; and what the device has.
The order is that of QEMU (``hw/vfio/container.c``, ``hw/vfio/iommufd.c``).
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import attrs

from vfiohost import vfio
from vfiohost.errors import KernelError
from vfiohost.native import ioctls
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTAINER = "dev/vfio/vfio"
IOMMUFD = "dev/iommu"
_FIRST_IOVA = 16 << 20  # above what old devices and their firmware reserve for themselves


@attrs.frozen
class Request:
    """What the helper is to do.

    Attributes:
        root: the root directory.
        address: the device.
        group: its IOMMU group, for the path through the group.
        cdev: its own node, relative to the root, for the path through that.
        reset: reset the device, too.
        vf_token: the token of a PF that a VFIO user has, or ``None``.
    """

    root: str
    address: str
    group: int | None
    cdev: str | None
    reset: bool
    vf_token: str | None


def main() -> None:
    """Do what the one argument asks for, a JSON object of the fields of :class:`Request`."""
    request = Request(**json.loads(sys.argv[1]))
    with Sysfs(request.root) as sysfs:
        run(sysfs, request, _print)


def run(sysfs: Sysfs, request: Request, tell: Callable[[dict[str, Any]], None]) -> None:
    """Do the steps of a probe up to the first one that fails, then close everything.

    Args:
        sysfs: the host.
        request: what to do.
        tell: told of each step, and of what the device has.
    """
    steps = _Steps(sysfs, request, tell)
    try:
        with ExitStack() as opened:
            if request.cdev is None:
                steps.by_group(opened)
            else:
                steps.by_cdev(opened)
            steps.begin("close")
        steps.ok()
    except KernelError as error:
        where = {"op": error.op, "errno": error.errno, "path": error.path, "ioctl": error.value}
        tell({"failed": f"{error.strerror} ({error.code})", "error": where})


class _Steps:
    def __init__(
        self, sysfs: Sysfs, request: Request, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self.sysfs = sysfs
        self.request = request
        self.tell = tell

    def begin(self, name: str) -> None:
        self.tell({"begin": name})

    def ok(self, detail: str = "") -> None:
        self.tell({"ok": detail})

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.begin(name)
        yield
        self.ok()

    def by_group(self, opened: ExitStack) -> None:
        """Through the group's node and a container."""
        group_number = self.request.group or 0
        container, shown = self._open(CONTAINER, opened), self.sysfs.shown(CONTAINER)
        self.begin("GET_API_VERSION")
        self.ok(str(ioctls.get_api_version(container, shown=shown)))
        self.begin(f"open {self.sysfs.shown(f'dev/vfio/{group_number}')}")
        group, node = vfio.open_group(self.sysfs, group_number)
        opened.callback(os.close, group)
        is_noiommu = "noiommu-" in node
        self.tell({"noiommu": is_noiommu})
        self.ok("without an IOMMU" if is_noiommu else "")
        self.begin("GROUP_GET_STATUS")
        status = vfio.GroupStatus(ioctls.group_get_status(group, shown=node))
        self.ok("viable" if status.is_viable else "not viable")
        with self.step("GROUP_SET_CONTAINER"):
            ioctls.group_set_container(group, container, shown=node)
        kind = vfio.NOIOMMU_IOMMU if is_noiommu else vfio.TYPE1V2_IOMMU
        self.begin("CHECK_EXTENSION")
        if not ioctls.check_extension(container, kind, shown=shown):
            raise KernelError("ioctl", errno.ENODEV, shown, "CHECK_EXTENSION")
        self.ok("noiommu" if is_noiommu else "type1v2")
        with self.step("SET_IOMMU"):
            ioctls.set_iommu(container, kind, shown=shown)
        iova = None if is_noiommu else self._map(container, group_number, opened)
        token = self.request.vf_token
        name = self.request.address + (f" vf_token={token}" if token else "")
        with self.step("GROUP_GET_DEVICE_FD"):
            device = ioctls.group_get_device_fd(group, name, shown=node)
            opened.callback(os.close, device)
        self._ask(device, self.request.address)
        if iova is not None:
            with self.step("IOMMU_UNMAP_DMA"):
                ioctls.iommu_unmap_dma(container, iova, mmap.PAGESIZE, shown=shown)

    def by_cdev(self, opened: ExitStack) -> None:
        """Through the device's own node and an iommufd."""
        cdev = self.request.cdev or ""
        shown, node = self.sysfs.shown(IOMMUFD), self.sysfs.shown(cdev)
        iommufd = self._open(IOMMUFD, opened)
        device = self._open(cdev, opened)
        with self.step("DEVICE_BIND_IOMMUFD"):
            ioctls.device_bind_iommufd(device, iommufd, shown=node)
        with self.step("IOAS_ALLOC"):
            ioas = ioctls.ioas_alloc(iommufd, shown=shown)
        with self.step("DEVICE_ATTACH_IOMMUFD_PT"):
            ioctls.device_attach_iommufd_pt(device, ioas, shown=node)
        page = opened.enter_context(mmap.mmap(-1, mmap.PAGESIZE))
        self.begin("IOAS_MAP")
        iova = ioctls.ioas_map(iommufd, ioas, page, shown=shown)
        self.ok(f"{mmap.PAGESIZE} bytes at {iova:#x}")
        self._ask(device, node)
        with self.step("IOAS_UNMAP"):
            ioctls.ioas_unmap(iommufd, ioas, iova, mmap.PAGESIZE, shown=shown)

    def _open(self, path: str, opened: ExitStack) -> int:
        with self.step(f"open {self.sysfs.shown(path)}"):
            fd = vfio.open_node(self.sysfs, path)
            opened.callback(os.close, fd)
        return fd

    def _map(self, container: int, group: int, opened: ExitStack) -> int:
        """Let the device see a page, and give the address that it sees it at."""
        page = opened.enter_context(mmap.mmap(-1, mmap.PAGESIZE))
        self.begin("IOMMU_MAP_DMA")
        regions = self.sysfs.read(f"sys/kernel/iommu_groups/{group}/reserved_regions")
        iova = free_iova(regions, mmap.PAGESIZE)
        ioctls.iommu_map_dma(container, page, iova, shown=self.sysfs.shown(CONTAINER))
        self.ok(f"{mmap.PAGESIZE} bytes at {iova:#x}")
        return iova

    def _ask(self, device: int, shown: str) -> None:
        """Ask for all that the device has, and reset it if that is wanted."""
        self.begin("DEVICE_GET_INFO")
        info = vfio.device_get_info(device, shown=shown)
        self.tell({"can_reset": info.can_reset})
        self.ok("can be reset" if info.can_reset else "cannot be reset")
        self.begin("DEVICE_GET_REGION_INFO")
        regions = list(_present(vfio.device_get_region_info, device, info.num_regions, shown))
        found = [
            {"name": _name(vfio.PCI_REGIONS, r.index, "region"), "size": r.size}
            | {"flags": list(r.flag_names)}
            for r in regions
            if r.size
        ]
        self.tell({"regions": found})
        self.ok(f"{len(found)} of {info.num_regions}")
        self.begin("DEVICE_GET_IRQ_INFO")
        irqs = list(_present(vfio.device_get_irq_info, device, info.num_irqs, shown))
        kinds = [
            {"name": _name(vfio.PCI_IRQS, i.index, "irq"), "count": i.count}
            | {"flags": list(i.flag_names)}
            for i in irqs
            if i.count
        ]
        self.tell({"irqs": kinds})
        self.ok(f"{len(kinds)} of {info.num_irqs}")
        if self.request.reset:
            with self.step("DEVICE_RESET"):
                ioctls.device_reset(device, shown=shown)


def free_iova(reserved: str, size: int) -> int:
    """Find an address that no reserved region of the group takes.

    Args:
        reserved: the group's ``reserved_regions``: lines of first, last byte and kind.
        size: bytes that are needed there; the address is a multiple of it.
    """
    iova = _FIRST_IOVA
    for first, last, *_ in sorted(
        tuple(int(word, 16) for word in line.split()[:2]) for line in reserved.splitlines() if line
    ):
        if first < iova + size and last >= iova:
            iova = -(-(last + 1) // size) * size
    return iova


def _present(ask: Callable[..., Any], device: int, count: int, shown: str) -> Iterator[Any]:
    """What there is of each index; EINVAL means "not on this device" (a VGA region, for one)."""
    for index in range(count):
        try:
            yield ask(device, index, shown=shown)
        except KernelError as error:
            if error.errno != errno.EINVAL:
                raise


def _name(names: tuple[str, ...], index: int, kind: str) -> str:
    return names[index] if index < len(names) else f"{kind} {index}"


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
