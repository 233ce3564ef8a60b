"""What a vGPU configuration comes down to on a host: differences, and the plans that mend them.

Where GPUs make their vGPUs on virtual functions and have none yet, these are made first.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vfiohost.host_file.types import Difference
from vfiohost.host_stages import Stage
from vfiohost.nvidia import is_gpu
from vfiohost.plan.words import counted
from vfiohost.vgpu_config.selecting import select
from vfiohost.vgpus import vgpu_gpus, vgpus_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vfiohost.host_planner import HostPlanner
    from vfiohost.model import PciAddress, Snapshot
    from vfiohost.plan.types import Plan
    from vfiohost.vgpu_config.selecting import Selection
    from vfiohost.vgpu_config.types import Entry


class DeclaredVgpus:
    """One vGPU configuration on a host.

    Args:
        host: the host.
        entries: of the configuration.
        allow: words that permit what would be refused (:data:`vfiohost.plan.hazards.ALLOWABLE`).
        name: of the configuration, for messages.
    """

    def __init__(
        self,
        host: HostPlanner,
        entries: Iterable[Entry],
        allow: Iterable[str] = (),
        *,
        name: str = "",
    ) -> None:
        self.name = name
        self.host = host
        self.entries = tuple(entries)
        self.allow = frozenset(allow)

    def selection(self, snapshot: Snapshot) -> Selection:
        """What the configuration says of the host's GPUs.

        Args:
            snapshot: the host, with its mediated devices.

        Raises:
            PlanRefused: entries contradict each other about a GPU.
        """
        makers = {gpu.address: gpu for gpu in vgpu_gpus(snapshot)}

        def offers(address: PciAddress, name: str) -> bool:
            gpu = makers.get(address)
            return gpu is not None and gpu.offers(name) is not None

        gpus = [device for device in snapshot.devices if is_gpu(device)]
        return select(self.entries, gpus, offers)

    def differences(self, snapshot: Snapshot) -> tuple[Difference, ...]:
        """In what the host differs from the configuration, in order of address.

        A GPU of which the configuration says nothing is a difference, as it is for NVIDIA's vGPU
        device manager.

        Raises:
            PlanRefused: as :meth:`selection`.
        """
        selection = self.selection(snapshot)
        makers = {gpu.address: gpu for gpu in vgpu_gpus(snapshot)}
        found = [
            Difference(str(a), "vgpus", vgpus_text(makers[a].held), "an entry", self.name)
            for a in selection.uncovered
        ]
        for address, counts in selection.wanted.items():
            gpu = makers[address]
            if not gpu.has_just(counts):
                has, said = vgpus_text(gpu.held), vgpus_text(counts)
                found.append(Difference(str(address), "vgpus", has, said, self.name))
        return tuple(sorted(found, key=lambda each: each.subject))

    def stages(self, snapshot: Snapshot) -> tuple[Stage, ...]:
        """The plans that make the host what the configuration says, in order.

        Args:
            snapshot: the host as it is, with its mediated devices.

        Raises:
            PlanRefused: as :meth:`selection`.
        """
        wanted = self.selection(snapshot).wanted
        waiting = [
            gpu.address
            for gpu in vgpu_gpus(snapshot)
            if gpu.backend is None and wanted.get(gpu.address) and _lacks_vfs(snapshot, gpu.address)
        ]
        stages = [Stage(f"set the vGPUs of {counted(len(wanted), 'GPU')}", self._vgpus)]
        if waiting:
            title = f"make the virtual functions of {counted(len(waiting), 'GPU')}"
            stages.insert(0, Stage(title, partial(self._vfs, waiting)))
        return tuple(stages)

    def _vfs(self, gpus: list[PciAddress], snapshot: Snapshot) -> Plan:
        return self.host.plan_vfs(
            [snapshot.pci[address] for address in gpus], "all", allow=self.allow, snapshot=snapshot
        )

    def _vgpus(self, snapshot: Snapshot) -> Plan:
        wanted = self.selection(snapshot).wanted
        return self.host.plan_vgpus(wanted, allow=self.allow, snapshot=snapshot)


def _lacks_vfs(snapshot: Snapshot, address: PciAddress) -> bool:
    total = snapshot.pci[address].total_vfs
    return bool(isinstance(total, int) and total) and not any(
        device.physfn == address for device in snapshot.devices
    )
