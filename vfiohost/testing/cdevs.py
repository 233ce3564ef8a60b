"""Devices that processes open by their own nodes, and the iommufds that they are bound to.

Kernel: ``drivers/vfio/device_cdev.c``, ``drivers/vfio/iommufd.c``, ``drivers/iommu/iommufd``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiohost.testing import groups, processes, vendor_vgpu
from vfiohost.testing.processes import OpenError

if TYPE_CHECKING:
    from vfiohost.testing.machine import Machine
    from vfiohost.testing.processes import Opener
    from vfiohost.testing.state import OpenFile

_IOMMUFD = "dev/iommu"


def open_cdev(machine: Machine, subject: str, path: str, opener: Opener) -> OpenFile:
    """``vfio_device_fops_cdev_open``: several may, and no ioctl but BIND_IOMMUFD works yet."""
    name = next(iter(machine.tree.listing(f"{path}/vfio-dev")), "")
    node = f"dev/vfio/devices/{name}"
    if not name or not machine.tree.exists(node):
        raise OpenError("open", errno.ENOENT, node.rstrip("/"))
    processes.start_process(machine, opener)
    descriptors = [processes.add_descriptor(machine, opener.pid, f"/{node}")]
    group = machine.group_of(path)
    return processes.add_file(
        machine, opener.pid, "cdev", descriptors, group=group, subject=subject
    )


def open_iommufd(machine: Machine, opener: Opener) -> OpenFile:
    """``iommufd_fops_open``."""
    if not machine.tree.exists(_IOMMUFD):
        raise OpenError("open", errno.ENOENT, _IOMMUFD)
    processes.start_process(machine, opener)
    descriptors = [processes.add_descriptor(machine, opener.pid, f"/{_IOMMUFD}")]
    file = processes.add_file(machine, opener.pid, "iommufd", descriptors)
    machine.state.ioas[str(file.number)] = []
    return file


def bind(machine: Machine, number: int, iommufd: int | None) -> None:
    """``vfio_df_ioctl_bind_iommufd``.

    Args:
        machine: the host.
        number: of the open cdev.
        iommufd: of the open file that is given as iommufd; ``None`` for -1.
    """
    cdev = _open_file(machine, number, "BIND_IOMMUFD")
    others = [f for f in machine.state.open_files if f.kind == "cdev" and f.owned and f != cdev]
    if iommufd is None:
        raise _refusal("BIND_IOMMUFD", errno.EINVAL)
    if groups.is_open(machine, cdev.group):  # vfio_device_block_group
        raise _refusal("BIND_IOMMUFD", errno.EBUSY)
    if cdev.owned:
        raise _refusal("BIND_IOMMUFD", errno.EINVAL)
    given = _file(machine, iommufd)
    if given is None or given.kind != "iommufd":  # iommufd_ctx_from_fd
        raise _refusal("BIND_IOMMUFD", errno.EBADF if given is None else errno.EBADFD)
    if any(other.subject == cdev.subject for other in others):  # vfio_df_open
        raise _refusal("BIND_IOMMUFD", errno.EINVAL)
    path = machine.pci_path(cdev.subject or "")
    if path is not None:
        _claim(machine, cdev, path, iommufd, others)
        if vendor_vgpu.open_errno(machine, path):
            raise _refusal("BIND_IOMMUFD", errno.ENODEV)
    cdev.owned = True
    cdev.iommufd = iommufd
    path = path or machine.mdev_path(cdev.subject or "")
    if path is not None:
        processes.enable(machine, path)


def attach(machine: Machine, number: int, ioas: int) -> None:
    """``vfio_df_ioctl_attach_pt``: functions of one group have one address space.

    One that is attached already takes the others of its group along (``iommufd_device_replace``).
    """
    cdev = _bound(machine, number, "ATTACH_IOMMUFD_PT")
    if ioas not in machine.state.ioas[str(cdev.iommufd)]:
        raise _refusal("ATTACH_IOMMUFD_PT", errno.ENOENT)
    files = machine.state.open_files
    attached = [f for f in files if f.group == cdev.group and f.ioas is not None]
    if cdev.ioas is None and any(other.ioas != ioas for other in attached):
        raise _refusal("ATTACH_IOMMUFD_PT", errno.EINVAL)
    for file in (cdev, *attached):
        file.ioas = ioas


def detach(machine: Machine, number: int) -> None:
    """``vfio_df_ioctl_detach_pt``: no error when nothing is attached."""
    _bound(machine, number, "DETACH_IOMMUFD_PT").ioas = None


def alloc_ioas(machine: Machine, number: int) -> int:
    """``iommufd_ioas_alloc_ioctl``. Ids are the iommufd's own, beginning with 1."""
    ids = _ioas_of(machine, number, "IOAS_ALLOC")
    ids.append(groups.lowest_free(set(ids), first=1))
    return ids[-1]


def destroy(machine: Machine, number: int, ioas: int) -> None:
    """``iommufd_destroy``."""
    ids = _ioas_of(machine, number, "DESTROY")
    if ioas not in ids:
        raise _refusal("DESTROY", errno.ENOENT)
    if any(f.iommufd == number and f.ioas == ioas for f in machine.state.open_files):
        raise _refusal("DESTROY", errno.EBUSY)
    ids.remove(ioas)


def _claim(
    machine: Machine, cdev: OpenFile, path: str, iommufd: int, others: list[OpenFile]
) -> None:
    """The group becomes the iommufd's: ``iommufd_device_bind``, ``vfio_pci_core_enable``."""
    group = cdev.group
    owners = {other.iommufd for other in others if other.group == group}
    if (group is not None and groups.blockers(machine, group)) or owners - {iommufd}:
        raise _refusal("BIND_IOMMUFD", errno.EPERM)  # iommu_device_claim_dma_owner
    # pci_try_reset_function, which takes the device's lock where there is a way to reset it
    if machine.is_locked(cdev.subject or "") and machine.tree.exists(f"{path}/reset"):
        raise _refusal("BIND_IOMMUFD", errno.EAGAIN)


def _file(machine: Machine, number: int) -> OpenFile | None:
    return next((f for f in machine.state.open_files if f.number == number), None)


def _open_file(machine: Machine, number: int, ioctl: str) -> OpenFile:
    file = _file(machine, number)
    if file is None:  # it was closed
        raise _refusal(ioctl, errno.EBADF)
    return file


def _bound(machine: Machine, number: int, ioctl: str) -> OpenFile:
    """The open cdev; every other ioctl wants it bound (``vfio_device_fops_unl_ioctl``)."""
    cdev = _open_file(machine, number, ioctl)
    if not cdev.owned:
        raise _refusal(ioctl, errno.EINVAL)
    return cdev


def _ioas_of(machine: Machine, number: int, ioctl: str) -> list[int]:
    return machine.state.ioas[str(_open_file(machine, number, ioctl).number)]


def _refusal(ioctl: str, number: int) -> OpenError:
    on_iommufd = ioctl in ("IOAS_ALLOC", "DESTROY")
    return OpenError("ioctl", number, _IOMMUFD if on_iommufd else "dev/vfio/devices", ioctl)
