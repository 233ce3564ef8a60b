"""Where the functions of a host are: host bridges, the functions below them, and VFs. Pure."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from typing import TYPE_CHECKING

import attrs

from vfiohost.model import PciAddress

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from vfiohost.model import PciDevice, Snapshot


@attrs.frozen
class Node:
    """A function with what is below it.

    Attributes:
        device: the function.
        children: the functions on the buses behind it.
        virtual_functions: those that it has made, in order of address.
    """

    device: PciDevice
    children: tuple[Node, ...] = ()
    virtual_functions: tuple[PciDevice, ...] = ()

    def devices(self) -> Iterator[PciDevice]:
        """The function and all below it."""
        yield self.device
        yield from self.virtual_functions
        for child in self.children:
            yield from child.devices()


@attrs.frozen
class Bridge:
    """A host bridge (``pci0000:64``), or another directory that has functions.

    Attributes:
        name: the directory.
        nodes: the functions on its bus.
    """

    name: str
    nodes: tuple[Node, ...]

    @property
    def numa_nodes(self) -> tuple[int, ...]:
        """The NUMA nodes that the functions below say they are at."""
        found = (device.numa_node for node in self.nodes for device in node.devices())
        return tuple(sorted({node for node in found if isinstance(node, int)}))


def topology(
    snapshot: Snapshot, chosen: Collection[PciAddress] | None = None
) -> tuple[Bridge, ...]:
    """Arrange the functions of a host as ``sys/devices`` has them.

    A virtual function hangs on its physical function, not on the bus.

    Args:
        snapshot: the host.
        chosen: only these, what they hang on and what hangs on them; by default all.

    Returns:
        The host bridges, in order of name. Each function that was chosen is there once.
    """
    return _Arrangement(snapshot, chosen).bridges()


class _Arrangement:
    """One run of :func:`topology`."""

    def __init__(self, snapshot: Snapshot, chosen: Collection[PciAddress] | None) -> None:
        self._by_path: dict[str, PciAddress] = {}
        for device in snapshot.devices:
            self._by_path.setdefault(device.path, device.address)
        self._below: dict[PciAddress | str, list[PciDevice]] = defaultdict(list)
        self._vfs: dict[PciAddress, list[PciDevice]] = defaultdict(list)
        above = {device.address: self._above(device) for device in snapshot.devices}
        bridges = frozenset(above.values())
        for device in snapshot.devices:
            physfn = device.physfn
            known = snapshot.pci.get(physfn) if isinstance(physfn, PciAddress) else None
            # Nothing is behind a virtual function; where a tree says so, it is shown like others.
            if known is not None and not known.is_vf and device.address not in bridges:
                self._vfs[known.address].append(device)
            else:
                self._below[above[device.address]].append(device)
        self._chosen = None if chosen is None else frozenset(chosen)

    def bridges(self) -> tuple[Bridge, ...]:
        names = sorted(name for name in self._below if isinstance(name, str))
        whole = self._chosen is None
        found = (Bridge(name, self._nodes(name, whole=whole)) for name in names)
        return tuple(bridge for bridge in found if bridge.nodes)

    def _above(self, device: PciDevice) -> PciAddress | str:
        """The function that a function is behind, else the directory that it is in."""
        path = posixpath.dirname(device.path)
        while path:
            owner = self._by_path.get(path)
            if owner is not None and owner != device.address:
                return owner
            path = posixpath.dirname(path) if path != "/" else ""
        return posixpath.basename(posixpath.dirname(device.path))

    def _nodes(self, above: PciAddress | str, *, whole: bool) -> tuple[Node, ...]:
        made = (self._node(device, whole=whole) for device in self._below.get(above, ()))
        return tuple(node for node in made if node is not None)

    def _node(self, device: PciDevice, *, whole: bool) -> Node | None:
        """A function; with all below it, or with what was chosen of that, if anything was."""
        chosen = self._chosen or frozenset()
        whole = whole or device.address in chosen
        children = self._nodes(device.address, whole=whole)
        vfs = tuple(vf for vf in self._vfs.get(device.address, ()) if whole or vf.address in chosen)
        return Node(device, children, vfs) if children or vfs or whole else None
