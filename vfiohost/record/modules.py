"""Recording the modules and drivers that matter to the recorded functions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import ParseError
from vfiohost.modalias import Modalias, ModuleIndex, driver_of, module_name
from vfiohost.model import is_vfio_driver
from vfiohost.record.reading import link_name, names_in, text_of
from vfiohost.record.sriov_drivers import SRIOV_DRIVERS
from vfiohost.recording import Module, PciDriver, modalias_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vfiohost.recording import Function, ModuleState
    from vfiohost.sysfs import Sysfs

# Worth recording when loaded, though they bring no PCI driver and nothing needs them.
_NOTABLE = re.compile(r"(?:nvidia|vfio|mdev|mtty|mdpy|mbochs|iommufd|irqbypass)\w*")

_PCI_ALIASES = re.compile(r"^alias ((?:vfio_)?pci:\S+) (\S+)$", re.MULTILINE)

_LIMIT = 16 << 20


class Modules:
    """The modules that matter to the recorded functions, loaded or not."""

    def __init__(self, sysfs: Sysfs, kernel: str | None, functions: Sequence[Function]) -> None:
        self.sysfs = sysfs
        self.functions = functions
        self.modaliases = list(_modaliases(functions))
        directory = f"lib/modules/{kernel}"
        self.needs = self._dependencies(directory if kernel else None)
        self.loaded = {name for name in names_in(self.sysfs, "sys/module") if self._is_loaded(name)}
        self.drivers = self._registered()
        self.aliases = self._aliases(f"{directory}/modules.alias") if kernel else {}

    def modules(self) -> tuple[Module, ...]:
        """In the order of ``modules.dep``, which is that of ``modules.alias``; the rest by name.

        Those that are built in come last.
        """
        wanted = self.drivers.keys() | self.aliases.keys()
        wanted |= {name for name in self.loaded if _NOTABLE.fullmatch(name)}
        while more := {need for name in wanted for need in self._depends(name)} - wanted:
            wanted |= more
        order = {name: number for number, name in enumerate(self.needs)}

        def place(name: str) -> tuple[bool, int, str]:
            return (self._state(name) == "builtin", order.get(name, len(order)), name)

        return tuple(map(self._module, sorted(wanted, key=place)))

    def _state(self, name: str) -> ModuleState:
        if name in self.loaded:
            return "loaded"
        return "builtin" if name in self.drivers else "loadable"

    def _module(self, name: str) -> Module:
        state = self._state(name)
        aliases = self.aliases.get(name, ())
        matches = tuple(alias for alias in aliases if alias.startswith("pci:"))
        drivers = self.drivers.get(name, [])
        if state == "loadable" and aliases:
            drivers = [driver_of(name)]
        return Module(
            name=name,
            state=state,
            drivers=tuple(
                PciDriver(
                    driver,
                    self._matches(driver, matches, alone=len(drivers) == 1),
                    sriov=driver in SRIOV_DRIVERS,
                )
                for driver in drivers
            ),
            depends=tuple(self._depends(name)),
            aliases=aliases,
        )

    def _matches(self, driver: str, aliases: tuple[str, ...], *, alone: bool) -> tuple[str, ...]:
        """A driver's id table: its module's aliases, else what it is bound to."""
        if alone and aliases:
            return aliases
        bound = [
            modalias
            for function, modalias in self.modaliases
            if function is not None and function.driver == driver and not _is_overridden(function)
        ]
        if aliases:
            return tuple(a for a in aliases if any(modalias.matches(a) for modalias in bound))
        if is_vfio_driver(driver):
            return ()
        return tuple(dict.fromkeys(str(modalias) for modalias in bound))

    # -- what the files say

    def _is_loaded(self, name: str) -> bool:
        return self.sysfs.exists(f"sys/module/{name}/initstate")

    def _registered(self) -> dict[str, list[str]]:
        """The registered drivers by module; one without has the name that its module would have."""
        names = {f.driver for f in self.functions if f.driver is not None}
        found: dict[str, list[str]] = {}
        for driver in sorted(names | set(names_in(self.sysfs, "sys/bus/pci/drivers"))):
            module = link_name(self.sysfs, f"sys/bus/pci/drivers/{driver}/module")
            if module is None or module not in self.loaded:
                module = module_name(driver)
            found.setdefault(module, []).append(driver)
        return found

    def _dependencies(self, directory: str | None) -> dict[str, list[str]]:
        text = text_of(self.sysfs, f"{directory}/modules.dep", _LIMIT) if directory else ""
        found = {}
        for line in (text or "").splitlines():
            path, _, needs = line.partition(":")
            found[module_name(path)] = [module_name(need) for need in needs.split()]
        return found

    def _depends(self, name: str) -> list[str]:
        if self.needs:
            return self.needs.get(name, [])
        return sorted(
            m for m in self.loaded if name in names_in(self.sysfs, f"sys/module/{m}/holders")
        )

    def _aliases(self, path: str) -> dict[str, tuple[str, ...]]:
        """By module: its aliases that match a recorded function, and those of the VFIO drivers."""
        text = text_of(self.sysfs, path, _LIMIT) or ""
        index = ModuleIndex.from_texts(text, ())
        modaliases = {modalias for _, modalias in self.modaliases}
        matching = {f"pci:{alias}" for each in modaliases for alias, _ in index.matching(each)}
        found: dict[str, list[str]] = {}
        for alias, module in _PCI_ALIASES.findall(text):
            if alias in matching or alias.startswith("vfio_pci:"):
                found.setdefault(module_name(module), []).append(alias)
        return {module: tuple(aliases) for module, aliases in found.items()}


def _modaliases(functions: Iterable[Function]) -> Iterator[tuple[Function | None, Modalias]]:
    """Those of the functions, and with ``None`` those that virtual functions would have."""
    for function in functions:
        attribute = function.attributes.get("modalias")
        content = attribute.content if attribute else modalias_text(function.attributes)
        if not isinstance(content, bytes):
            continue
        try:
            modalias = Modalias.parse(content.decode("ascii", "replace"))
        except ParseError:
            continue
        yield function, modalias
        vf = function.attributes.get("sriov_vf_device")
        if vf is not None and isinstance(vf.content, bytes):
            device = vf.content.decode("ascii", "replace").strip().upper()
            yield None, attrs.evolve(modalias, device=device.zfill(8))


def _is_overridden(function: Function) -> bool:
    override = function.attributes.get("driver_override")
    return (
        override is not None
        and function.driver is not None
        and override.content == f"{function.driver}\n".encode()
    )
