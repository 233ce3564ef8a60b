"""Who keeps a device from a probe: the processes that have the nodes open which are in its way."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import attrs

from vfiohost.holders import VFIO_DEVICE, Processes
from vfiohost.nodes import cdev_node, group_node
from vfiohost.plan.words import listed

if TYPE_CHECKING:
    from vfiohost.model import IommuGroup, PciDevice
    from vfiohost.probe.types import Failure
    from vfiohost.sysfs import Sysfs
    from vfiohost.usage import Process


@attrs.frozen
class Nodes:
    """The nodes of a device and of its group, relative to the root.

    Attributes:
        group: the group's, or ``None``.
        own: the device's own, or ``None``.
        others: those of the other devices of the group.
    """

    group: str | None = None
    own: str | None = None
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, sysfs: Sysfs, device: PciDevice, group: IommuGroup | None) -> Nodes:
        """Those that there are now.

        Files: ``dev/vfio``, ``sys/bus/pci/devices/*/vfio-dev`` of the group's devices.
        """
        address = str(device.address)
        members = [str(m.address) for m in (group.members if group else ())]
        found = [cdev_node(sysfs, member) for member in members if member != address]
        others = tuple(node for node in found if node is not None)
        return cls(group_node(sysfs, address), cdev_node(sysfs, address), others)

    def in_the_way(self, failure: Failure) -> tuple[str, ...]:
        """The nodes of which one that is open makes the kernel refuse.

        A device's own node is bound by one at a time (EINVAL of ``vfio_df_open``), not while the
        group's node is open (EBUSY of ``vfio_device_block_group``), and not while another user has
        a device of the group (EPERM of ``iommu_device_claim_dma_owner``). The group's node is
        opened by one at a time, and while no own node is bound (``vfio_group_fops_open``).
        """
        if failure.ioctl == "DEVICE_BIND_IOMMUFD":
            by_errno = {errno.EINVAL: (self.own,), errno.EPERM: self.others}
            names: tuple[str | None, ...] = by_errno.get(failure.errno, (self.group,))
        else:
            names = (self.group, self.own, *self.others)
        return tuple(name for name in names if name is not None)


@attrs.frozen
class Users:
    """Who has some nodes open.

    Attributes:
        found: the processes, each with the first of the nodes that it has.
        nodes: the nodes, as the host names them.
        incomplete: what was not seen, as sentences.
    """

    found: tuple[tuple[Process, str], ...]
    nodes: tuple[str, ...]
    incomplete: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Who it is, or that it cannot be told, and what was not seen."""
        who = listed([f"{process} has {node} open" for process, node in self.found])
        if not who:
            nodes = " or ".join(self.nodes) or "a node of it"
            who = f"by whom cannot be told, since no process that shows has {nodes} open"
        return " ".join((f"{who}.", *self.incomplete))


def find_users(
    sysfs: Sysfs, nodes: tuple[str, ...], *, devices: tuple[str, ...], prober: int | None
) -> Users:
    """Find out who has some nodes open, as far as this user may look.

    Users of other nodes are none: that somebody has a VFIO device open (``anon_inode:``) says
    nothing of which one it is, but where ``fdinfo`` does (Linux 6.16).

    Args:
        sysfs: the host.
        nodes: relative to the root.
        devices: where the devices are, relative to the root, of which one counts that somebody got
            through the group and kept, while the node itself is closed.
        prober: the helper of the probe, which does not count.

    Files: ``proc/*/fd``, ``proc/*/fdinfo``.
    """
    names = tuple(f"/{node}" for node in nodes)
    seen = Processes(sysfs, {VFIO_DEVICE, *names})
    files = [file for name in names for file in seen.files.get(name, ())]
    files += [file for device in devices for file in seen.devices(device)]
    found: dict[int, tuple[Process, str]] = {}
    for file in files:
        what = "the device" if file.target == VFIO_DEVICE else file.target
        if file.process.pid != prober:
            found.setdefault(file.process.pid, (file.process, what))
    return Users(tuple(found.values()), names, tuple(seen.incomplete))
