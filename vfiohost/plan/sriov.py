"""Make virtual functions, and remove them.

A driver must not get at a function that is meant for a guest, not even for a moment. So where its
driver is chosen, the kernel is told not to probe (``sriov_drivers_autoprobe``), the functions are
made (``sriov_numvfs``), each gets its ``driver_override`` and is bound, and probing is as it was
(``drivers/pci/iov.c``, ``drivers/pci/pci-driver.c:pci_device_can_probe``).

The number changes through 0 alone, which destroys all of them. Before that each is taken from its
driver by itself: a removal that has to wait for somebody holds the PF's lock and the lock of all
rescans of the host, a blocked ``unbind`` only that function (``vfio_unregister_group_dev``).

NVIDIA's closed vGPU driver refuses the store; its script ``sriov-manage`` is the way in there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost.errors import PlanRefused, Refusal
from vfiohost.model import SRIOV_MANAGE, PciAddress, Unavailable, is_vfio_driver
from vfiohost.nvidia import DRIVER as NVIDIA
from vfiohost.plan.changes import DEVICES, NO_DRIVER, Binding, Change, steps
from vfiohost.plan.draft import find
from vfiohost.plan.drivers import AUTO, VFIO_PCI, Drivers, check_name
from vfiohost.plan.hazards import check_allow, hazards, read_binding
from vfiohost.plan.in_use import use_hazards
from vfiohost.plan.restore import to_native
from vfiohost.plan.types import Expect, LoadModule, Plan, Store, WriteAttr
from vfiohost.plan.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vfiohost.modalias import ModuleIndex
    from vfiohost.model import PciDevice, Snapshot, SriovFacts
    from vfiohost.plan.types import Step

NATIVE = "native"
"""Of a virtual function: the driver that its ids give it."""

_LAST_BUS = 0xFF


@attrs.frozen
class VfsRequest:
    """How many virtual functions some physical ones shall have.

    Attributes:
        physfns: the physical functions; together they are one transaction.
        count: how many each shall have; ``all``: as many as it can.
        driver: of the virtual functions: a driver's name, ``auto`` (the best VFIO driver),
            ``none``, or :data:`NATIVE`; ``None``: new ones get what the kernel gives them, and
            those that exist stay as they are.
        recreate: virtual functions that exist may be destroyed to get another number.
        load: a module may be loaded.
        allow: hazards that are permitted (:data:`vfiohost.plan.hazards.ALLOWABLE`).
    """

    physfns: tuple[PciAddress, ...]
    count: int | Literal["all"]
    driver: str | None = None
    recreate: bool = False
    load: bool = True
    allow: frozenset[str] = frozenset()


def plan_vfs(
    snapshot: Snapshot,
    request: VfsRequest,
    facts: Mapping[PciAddress, SriovFacts],
    modules: ModuleIndex | None,
) -> Plan:
    """Plan how many virtual functions there shall be.

    One that has the number already is left alone, and its virtual functions go to the driver that
    is asked for.

    Args:
        snapshot: the host, with the details and the usage of the physical functions and of all
            their virtual ones, and with the mediated devices.
        request: what shall be.
        facts: of each of the physical functions.
        modules: the kernel's modules, or ``None`` where there is no list of them.

    Raises:
        ParseError: the driver's name can be none, or an ``allow`` word is unknown.
        NotFoundError: there is no such device.
        PlanRefused: for all reasons at once; the plan that would have been comes with them.
    """
    check_allow(request.allow)
    if request.driver not in (None, AUTO, NO_DRIVER, NATIVE):
        check_name(request.driver)
    planners = [
        _Planner(Drivers(snapshot, modules), request, physfn, facts[physfn.address])
        for physfn in find(snapshot, request.physfns)
    ]
    for planner in planners:
        planner.plan()
    loads = {load.name: load for planner in planners for load in planner.loads}
    plan = Plan(
        "vf clear" if request.count == 0 else "vf set",
        tuple(str(planner.physfn.address) for planner in planners),
        (*loads.values(), *(step for planner in planners for step in planner.steps)),
        notes=tuple(note for planner in planners for note in planner.notes),
        incomplete=snapshot.usage.incomplete if snapshot.usage else (),
    )
    refusals = [refusal for planner in planners for refusal in planner.refusals]
    if refusals:
        raise PlanRefused(refusals, plan)
    return plan


@attrs.define
class _Planner:
    """Plans for one physical function."""

    drivers: Drivers
    request: VfsRequest
    physfn: PciDevice
    facts: SriovFacts
    steps: list[Step] = attrs.field(factory=list, init=False)
    loads: list[LoadModule] = attrs.field(factory=list, init=False)
    notes: list[str] = attrs.field(factory=list, init=False)
    refusals: list[Refusal] = attrs.field(factory=list, init=False)
    healer: str | None = attrs.field(default=None, init=False)
    """The driver that the physical function gets back first."""

    @property
    def snapshot(self) -> Snapshot:
        return self.drivers.snapshot

    @property
    def path(self) -> str:
        return f"{DEVICES}/{self.physfn.address}"

    @property
    def uses_script(self) -> bool:
        """Whether NVIDIA's script makes the virtual functions, because its driver refuses to."""
        return NVIDIA in (self.physfn.driver, self.healer) and self.facts.has_script

    def plan(self) -> None:
        """Find the steps, and all that speaks against them."""
        total, now = self.physfn.total_vfs, self.facts.num_vfs
        if isinstance(now, Unavailable) or isinstance(total, Unavailable):
            self._refuse_unreadable(now if isinstance(now, Unavailable) else total)
            return
        if not total:
            self._refuse(
                "no-sriov",
                f"{self._name} cannot have virtual functions: it has no SR-IOV capability, or the "
                "firmware left it no room.",
                "Leave it out; SR-IOV may be switched off in the firmware, or on the card itself.",
            )
            return
        wanted = total if self.request.count == "all" else self.request.count
        if wanted > total:
            self._refuse(
                "too-many-vfs",
                f"{self._name} can have {counted(total, 'virtual function')}, and {wanted} were "
                "asked for.",
                f"Ask for {total} or fewer.",
            )
        elif now == wanted:
            self._rebind()
        else:
            self._change_number(now, wanted, total)

    def _change_number(self, now: int, wanted: int, total: int) -> None:
        if now and wanted and not self.request.recreate:
            self._refuse(
                "vfs-exist",
                f"{self._name} has {counted(now, 'virtual function')}, and their number changes "
                "only through 0, which destroys all of them.",
                "Permit that with --recreate, or `vfiohost vf clear` it first.",
            )
        self._check_driver(now)
        if self.uses_script and wanted not in (0, total):
            self._refuse(
                "all-vfs",
                f"{self._name} is on NVIDIA's vGPU driver, whose sriov-manage makes all "
                f"{total} virtual functions or none.",
                f"Ask for all, or for {total}.",
            )
        if now:
            self._remove(now)
        if wanted:
            self._make(wanted)

    def _check_driver(self, now: int) -> None:
        """Whether there is a driver that makes and removes virtual functions."""
        driver = self.physfn.driver
        if isinstance(driver, str) and is_vfio_driver(driver) and not self.facts.enable_sriov:
            self._refuse(
                "pf-for-guests",
                f"{self._name} is on {driver}, which makes no virtual functions (its parameter "
                "enable_sriov is off).",
                f"Give it back to its own driver: `vfiohost restore {self._name}`.",
            )
        elif driver is None and not now:
            self._refuse(
                "no-pf-driver",
                f"{self._name} has no driver, and it is the driver that makes virtual functions.",
                f"Bind it to its own first: `vfiohost restore {self._name}`.",
            )
        elif driver is None:
            self._heal(now)

    def _heal(self, now: int) -> None:
        """Orphans can only be removed by the driver of their physical function."""
        native = self.drivers.native(self.physfn)
        binding = read_binding(self.snapshot, self.physfn)
        if isinstance(binding, Refusal):
            self.refusals.append(binding)
        elif len(native) != 1:
            self._refuse(
                "no-pf-driver",
                f"{self._name} has {counted(now, 'virtual function')} and no driver, which alone "
                "could remove them; which driver is its own cannot be told.",
                f"Bind it to its own driver first: `vfiohost bind {self._name} --driver DRIVER`.",
            )
        else:
            self.healer = native[0]
            self._bind(Change(self.physfn.address, binding, Binding(native[0], None), takes=True))
            self.notes.append(
                f"{self._name} had lost its driver and left its virtual functions behind: it goes "
                f"back to {native[0]} first."
            )

    def _remove(self, now: int) -> None:
        """Take each virtual function from its driver, then destroy them all."""
        changes = [change for vf in self._existing() if (change := self._release(vf)) is not None]
        self.refusals += hazards(self.snapshot, changes, self.request.allow)
        if self.uses_script:
            self._run_script("-d", now, 0)
            return
        for change in changes:
            self._bind(change)
        # On the way back no driver may get at them before their turn; if it could, they stay away.
        with_probing_off = self._probing_off(
            "so that a way back finds them without a driver", gates=True
        )
        why = f"destroy {counted(now, 'virtual function')}"
        self.steps += [*with_probing_off[:1], self._number_step(now, 0, why), *with_probing_off[1:]]

    def _existing(self) -> tuple[PciDevice, ...]:
        return self.snapshot.virtual_functions.get(self.physfn.address, ())

    def _release(self, vf: PciDevice) -> Change | None:
        """What takes a virtual function from its driver, and leaves it so that it can come back."""
        binding = read_binding(self.snapshot, vf)
        if isinstance(binding, Refusal):
            self.refusals.append(binding)
            return None
        born = self._born
        if binding.driver == born.driver:  # it has to let go, and takes it again by itself
            born = Binding(None, born.override)
        return Change(vf.address, binding, born)

    def _make(self, wanted: int) -> None:
        if self.uses_script:
            if self.request.driver not in (None, NATIVE):
                self._refuse(
                    "vgpu-vf",
                    f"The virtual functions of {self._name} belong to NVIDIA's vGPU driver, and no "
                    "other driver can take them.",
                    "Leave out --driver, and make vGPUs on them.",
                )
            self._run_script("-e", 0, wanted)
            return
        as_they_come = self.request.driver in (None, NATIVE)
        functions = [] if as_they_come else list(self._coming(wanted))
        off = self._probing_off("so that no driver takes them") if functions else []
        why = f"make {counted(wanted, 'virtual function')}"
        self.steps += [*off[:1], self._number_step(0, wanted, why)]
        for vf in functions:
            self._bind(self._change(vf, self._born), is_new=True)
        self.steps += off[1:]

    @property
    def _born(self) -> Binding:
        """What a new virtual function has, with probing switched off.

        vfio-pci keeps those of its physical functions for itself: it sets their override, which
        counts even then (``vfio_pci_bus_notifier``, ``pci_device_can_probe``).
        """
        if self.physfn.driver == VFIO_PCI:
            return Binding(VFIO_PCI, VFIO_PCI)
        return Binding(None, None)

    def _coming(self, wanted: int) -> Iterator[PciDevice]:
        """The virtual functions that are to be made: where the capability says they will be."""
        facts, at = self.facts, self.physfn.address
        if facts.offset is None or facts.stride is None:
            self._refuse(
                "unreadable",
                f"Where the virtual functions of {self._name} will be cannot be told: its "
                "sriov_offset and sriov_stride could not be read.",
                "Leave out --driver, and bind them when they are there.",
            )
            return
        place = (at.bus << 8) + (at.device << 3) + at.function
        for index in range(wanted):
            bus, rest = divmod(place + facts.offset + facts.stride * index, 1 << 8)
            if bus > _LAST_BUS:
                self._refuse(
                    "too-many-vfs",
                    f"There are no bus numbers for {wanted} virtual functions of {self._name}.",
                    f"Ask for {index} or fewer.",
                )
                return
            address = PciAddress(at.domain, bus, rest >> 3, rest & 7)
            yield attrs.evolve(
                self.physfn,
                address=address,
                device_id=facts.vf_device or self.physfn.device_id,
                driver=None,
                physfn=at,
                total_vfs=None,
                path=f"{self.physfn.path.rpartition('/')[0]}/{address}",
            )

    def _rebind(self) -> None:
        """The number is right: see to the driver alone."""
        if self.request.driver is None:
            return
        changes = []
        for vf in self._existing():
            binding = read_binding(self.snapshot, vf)
            if isinstance(binding, Refusal):
                self.refusals.append(binding)
            else:
                changes.append(self._change(vf, binding))
        self.refusals += hazards(self.snapshot, changes, self.request.allow)
        for change in changes:
            self._bind(change)

    def _change(self, vf: PciDevice, now: Binding) -> Change:
        """What brings a virtual function to the driver that was asked for."""
        driver = self.request.driver
        if driver not in (None, NATIVE):
            return Change(vf.address, now, self._wanted(vf, driver), returns=False)
        if driver is None or (now == Binding(None, None) and len(self.drivers.native(vf)) != 1):
            return Change(vf.address, now, now)  # the kernel's choice, if it has one, was made
        return to_native(self.drivers, vf, now, self.notes)

    def _wanted(self, vf: PciDevice, driver: str) -> Binding:
        """What a virtual function shall have."""
        if driver == AUTO:
            driver = self.drivers.best_vfio(vf)
        if driver == NO_DRIVER:
            return Binding(None, NO_DRIVER)
        need = self.drivers.need(driver, load=self.request.load)
        if isinstance(need, LoadModule) and need not in self.loads:
            self.loads.append(need)
        elif isinstance(need, Refusal) and need not in self.refusals:
            self.refusals.append(need)
        if isinstance(self.physfn.iommu_group, int) or not is_vfio_driver(driver):
            return Binding(driver, driver)
        self._refuse(
            "no-iommu",
            f"{self._name} has no IOMMU group, so its virtual functions will have none, and "
            f"{driver} takes no such device.",
            "Turn on the IOMMU: VT-d or AMD-Vi in the firmware, and intel_iommu=on on the kernel's "
            "command line of an Intel host.",
        )
        return Binding(driver, driver)

    def _bind(self, change: Change, *, is_new: bool = False) -> None:
        for step in steps([change], ()):
            if is_new and isinstance(step, WriteAttr):
                self.steps.append(attrs.evolve(step, device_is_new=True))
            else:
                self.steps.append(step)

    def _number_step(self, now: int, wanted: int, why: str) -> WriteAttr:
        path = f"{self.path}/sriov_numvfs"
        before, after = (Expect(path, "text", str(number)) for number in (now, wanted))
        back = Store(path, str(now), before)
        return WriteAttr(path, str(wanted), before, after, back, why, gates=True)

    def _run_script(self, option: str, now: int, wanted: int) -> None:
        """NVIDIA's script, which takes the GPU from its driver for the time."""
        away = Change(self.physfn.address, Binding(NVIDIA, None), Binding(None, None))
        self.refusals += use_hazards(self.snapshot, away, self.request.allow)
        path = f"{self.path}/sriov_numvfs"
        before, after = (Expect(path, "text", str(number)) for number in (now, wanted))
        back = "-d" if option == "-e" else "-e"
        self.steps.append(
            WriteAttr(
                SRIOV_MANAGE,
                f"{option} {self._name}",
                before,
                after,
                Store(SRIOV_MANAGE, f"{back} {self._name}", before),
                f"{'make' if wanted else 'destroy'} all virtual functions the way NVIDIA's driver "
                "wants it",
            )
        )

    def _probing_off(self, why: str, *, gates: bool = False) -> list[Step]:
        """The step that keeps drivers from new virtual functions, and the one that ends that."""
        if self.facts.autoprobe is not True:
            return []
        path = f"{self.path}/sriov_drivers_autoprobe"
        on, off = (Expect(path, "text", text) for text in ("1", "0"))
        return [
            WriteAttr(path, "0", on, off, Store(path, "1", on), why),
            WriteAttr(path, "1", off, on, Store(path, "0", off), "as it was before", gates=gates),
        ]

    @property
    def _name(self) -> str:
        return str(self.physfn.address)

    def _refuse(self, code: str, sentence: str, remedy: str) -> None:
        refusal = Refusal(code, self._name, sentence, remedy)
        if refusal not in self.refusals:
            self.refusals.append(refusal)

    def _refuse_unreadable(self, what: object) -> None:
        self._refuse(
            "unreadable",
            f"How many virtual functions {self._name} has cannot be told: {what}.",
            "Something may hold its lock: see who has its virtual functions open (`vfiohost "
            f"holders {self._name}`), and try again.",
        )


def functions_needed(snapshot: Snapshot, physfns: Iterable[PciAddress]) -> tuple[PciAddress, ...]:
    """The devices whose details and usage must be read before a request is planned.

    Raises:
        NotFoundError: there is no such device.
    """
    found = find(snapshot, physfns)
    vfs = (vf for device in found for vf in snapshot.virtual_functions.get(device.address, ()))
    return tuple(device.address for device in (*found, *vfs))
