"""What a process of the simulated host has open, as those see it who let it be opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from vfiohost.testing import cdevs

if TYPE_CHECKING:
    from types import TracebackType

    from vfiohost.testing.kernel import SimulatedKernel
    from vfiohost.testing.state import OpenFile

# ruff: noqa: SLF001 - a holder is a part of the kernel that made it


class Holder:
    """A process of the simulated host that has something open. As a context: closes it at the end.

    Attributes:
        pid: the process, as ``proc/PID`` shows it.
        group: the device's IOMMU group; ``None`` for an iommufd.
        subject: address or UUID of the open device; ``None`` for a group alone or an iommufd.
    """

    def __init__(self, kernel: SimulatedKernel, file: OpenFile) -> None:
        self._kernel = kernel
        self._number = file.number
        self._kind = file.kind
        self.pid = file.pid
        self.group = file.group
        self.subject = file.subject

    def close(self) -> None:
        """Close it; stores that wait for it go on. Closing twice is harmless."""
        self._kernel._close(self._number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        what = self.subject or (self._kind if self.group is None else f"group {self.group}")
        return f"<{type(self).__name__}: pid {self.pid} has {what} open>"


class Cdev(Holder):
    """A device that a process has opened by its own node, ``dev/vfio/devices/vfioN``.

    That alone keeps its driver from being unbound. The methods are the ioctls that come then; they
    raise KernelError as the ioctls would: EINVAL for every one before :meth:`bind_iommufd`.
    """

    def bind_iommufd(self, iommufd: Holder | None) -> None:
        """``VFIO_DEVICE_BIND_IOMMUFD``: the device's group belongs to the iommufd.

        Args:
            iommufd: the iommufd of the same process; ``None`` for a descriptor of -1.

        Raises:
            KernelError: EINVAL (no descriptor; bound already, also through another descriptor),
                EBUSY (the group's node is open), EBADF or EBADFD (closed, or no iommufd), EPERM (a
                sibling's driver uses the group, or another iommufd has it), EAGAIN (the driver is
                being unbound, and the device can be reset).
        """
        number = None if iommufd is None else iommufd._number
        self._kernel._ioctl(lambda machine: cdevs.bind(machine, self._number, number))

    def attach(self, ioas: int) -> None:
        """``VFIO_DEVICE_ATTACH_IOMMUFD_PT``: the device's DMA goes to an IO address space.

        Raises:
            KernelError: ENOENT (none has this id), EINVAL (a sibling is attached to another).
        """
        self._kernel._ioctl(lambda machine: cdevs.attach(machine, self._number, ioas))

    def detach(self) -> None:
        """``VFIO_DEVICE_DETACH_IOMMUFD_PT``."""
        self._kernel._ioctl(lambda machine: cdevs.detach(machine, self._number))


class Iommufd(Holder):
    """An open ``dev/iommu``. Closed, it lives on as long as a device is bound to it."""

    def alloc_ioas(self) -> int:
        """``IOMMU_IOAS_ALLOC``: make an IO address space.

        Returns:
            Its id.
        """
        return self._kernel._ioctl(lambda machine: cdevs.alloc_ioas(machine, self._number))

    def destroy(self, ioas: int) -> None:
        """``IOMMU_DESTROY`` of an IO address space.

        Raises:
            KernelError: ENOENT (none has this id), EBUSY (a device is attached to it).
        """
        self._kernel._ioctl(lambda machine: cdevs.destroy(machine, self._number, ioas))


_KINDS: dict[str, type[Holder]] = {"cdev": Cdev, "iommufd": Iommufd}


def holder_of(kernel: SimulatedKernel, file: OpenFile) -> Holder:
    """The holder of an open file, of the kind that it is."""
    return _KINDS.get(file.kind, Holder)(kernel, file)
