"""Which kernel modules could drive a device, and which VFIO driver fits it best.

``modules.alias`` (made by depmod) has lines ``alias PATTERN MODULE``. Two kinds of pattern matter
here: ``pci:`` for the drivers that take a device by its ids, and ``vfio_pci:`` for the VFIO
drivers, which take a device only when its ``driver_override`` names them
(``scripts/mod/file2alias.c:do_pci_entry``, ``PCI_DRIVER_OVERRIDE_DEVICE_VFIO``). The names are
those of *modules*; a driver may have another name.

What libkmod finds for a modalias, and lspci prints, is more than that file says:
:class:`ModuleLookup`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vfiohost.model import PciDevice

_FIELDS = re.compile(r"v([^a-z]+)d([^a-z]+)sv([^a-z]+)sd([^a-z]+)bc([^a-z]+)sc([^a-z]+)i([^a-z]+)")
_MODALIAS = re.compile(
    r"pci:v([0-9A-F]{8})d([0-9A-F]{8})sv([0-9A-F]{8})sd([0-9A-F]{8})"
    r"bc([0-9A-F]{2})sc([0-9A-F]{2})i([0-9A-F]{2})"
)
_PATTERN_MAX = (
    256  # characters; the kernel's have 54 at most, and a glob of megabytes takes minutes
)
# One pass in C over the whole text: most of the lines are about other buses. What is searched for
# begins with a text of its own and not with ``^``, which is tried at each character: a fifth of the
# time.
_PCI_LINES = re.compile(r"\nalias pci:(\S+) (\S+)$", re.MULTILINE)
_VFIO_LINES = re.compile(r"\nalias vfio_pci:(\S+) (\S+)$", re.MULTILINE)
_VENDOR_LINES = (
    r"\nalias pci:(v{vendor}d([0-9A-F]{{8}})?\S*|(?!v[0-9A-F]{{8}}d)\S+) (\S+)$"  # or any vendor's
)

# Modules whose PCI driver has another name than theirs, for modules that are not loaded: a loaded
# one says. The drivers of a graphics card's functions and their neighbours, and the usual stubs.
_DRIVERS = {
    "ehci_pci": "ehci-pci",
    "i2c_i801": "i801_smbus",
    "i2c_nvidia_gpu": "nvidia-gpu",
    "ohci_pci": "ohci-pci",
    "pci_stub": "pci-stub",
    "spi_intel_pci": "intel-spi",
    "vfio_pci": "vfio-pci",
    "virtio_pci": "virtio-pci",
    "xhci_pci": "xhci_hcd",
}
_MODULES = {driver: module for module, driver in _DRIVERS.items()}

MODPROBE = ("etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "lib/modprobe.d")
"""Where libkmod's configuration is; of ``*.conf`` files with one name the first counts."""

_CONTINUED = re.compile(r"\\\n")
_WILDCARD = re.compile(r"[*?[]")
_LAST = "\U0010ffff"  # sorts behind whatever a pattern has


@attrs.frozen
class Modalias:
    """A device's modalias, taken apart: upper-case hexadecimal texts, as the kernel writes them.

    Attributes:
        vendor, device, subvendor, subdevice: 8 digits each.
        base_class, sub_class, interface: 2 digits each.
    """

    vendor: str
    device: str
    subvendor: str
    subdevice: str
    base_class: str
    sub_class: str
    interface: str

    @classmethod
    def parse(cls, text: str) -> Modalias:
        """Read a PCI device's modalias (``drivers/pci/pci-sysfs.c:modalias_show``).

        Args:
            text: ``pci:v000010DEd00002236sv000010DEsd00001482bc03sc02i00``; a newline may follow.

        Raises:
            ParseError: the text is no modalias of a PCI device.
        """
        match = _MODALIAS.fullmatch(text.strip())
        if match is None:
            raise ParseError(
                text,
                "the modalias of a PCI device, such as "
                "pci:v000010DEd00002236sv000010DEsd00001482bc03sc02i00",
            )
        return cls(*match.groups())

    @classmethod
    def of(cls, device: PciDevice) -> Modalias:
        """The modalias that the kernel gives a device of these ids; unknown subsystem ids are 0."""
        return cls(
            f"{device.vendor_id:08X}",
            f"{device.device_id:08X}",
            f"{device.subsystem_vendor_id or 0:08X}",
            f"{device.subsystem_device_id or 0:08X}",
            f"{device.class_code >> 16:02X}",
            f"{device.class_code >> 8 & 0xFF:02X}",
            f"{device.class_code & 0xFF:02X}",
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """The seven fields, in the order of the text."""
        return (
            self.vendor,
            self.device,
            self.subvendor,
            self.subdevice,
            self.base_class,
            self.sub_class,
            self.interface,
        )

    def __str__(self) -> str:
        return (
            f"pci:v{self.vendor}d{self.device}sv{self.subvendor}sd{self.subdevice}"
            f"bc{self.base_class}sc{self.sub_class}i{self.interface}"
        )

    def matches(self, pattern: str) -> bool:
        """Say whether an alias pattern covers the device, as the kernel's tools mean it (glob).

        Args:
            pattern: with or without its ``pci:`` or ``vfio_pci:`` in front.
        """
        fields = pattern.rsplit(":", 1)[-1]
        if len(fields) > _PATTERN_MAX:
            return False
        split = _FIELDS.fullmatch(fields)
        if split is None:
            return fnmatchcase(str(self).removeprefix("pci:"), fields)
        return all(
            want in ("*", have) or (_is_glob(want) and fnmatchcase(have, want))
            for want, have in zip(split.groups(), self.fields, strict=True)
        )


# Not slotted: the tables are made from the text on first use, which most commands never need.
@attrs.frozen(slots=False)
class ModuleIndex:
    """What one kernel's ``/lib/modules`` says: module aliases and the names of all modules.

    Attributes:
        aliases: the text of ``modules.alias``.
        listing: the lines of ``modules.dep`` and ``modules.builtin``.
    """

    aliases: str = attrs.field(repr=False)
    listing: str = attrs.field(repr=False)

    @classmethod
    def from_texts(cls, aliases: str, names: Iterable[str]) -> ModuleIndex:
        """Make an index; nothing of the text is looked at yet.

        Args:
            aliases: the text of ``modules.alias``, ``""`` where there is none.
            names: modules, as names (``vfio_pci``, ``vfio-pci``) or as the lines that
                ``modules.dep`` and ``modules.builtin`` have (``kernel/…/vfio-pci.ko.xz: …``).
        """
        return cls(aliases, "\n".join(names))

    @cached_property
    def names(self) -> frozenset[str]:
        """All modules, loadable and built in, with underscores."""
        files = (line.partition(":")[0].strip() for line in self.listing.splitlines())
        return frozenset(module_name(file) for file in files if file)

    def candidates(self, modalias: str | Modalias) -> tuple[str, ...]:
        """The modules whose drivers take the device by its ids, in file order, each once.

        Raises:
            ParseError: ``modalias`` is not one of a PCI device.
        """
        return tuple(dict.fromkeys(module for _, module in self.matching(modalias)))

    def matching(self, modalias: str | Modalias) -> list[tuple[str, str]]:
        """The patterns that cover the device by its ids, with their modules, in file order.

        Raises:
            ParseError: ``modalias`` is not one of a PCI device.
        """
        wanted = _modalias(modalias)
        table = self._of_vendor(wanted.vendor)
        lines = sorted(line for device in (wanted.device, "") for line in table.get(device, ()))
        return [(pattern, module) for _, pattern, module in lines if wanted.matches(pattern)]

    def best_vfio_module(self, modalias: str | Modalias) -> str | None:
        """The VFIO driver's module that fits the device most closely.

        The rule is that of libvirt and of NVIDIA's go-nvlib: among the ``vfio_pci:`` patterns that
        match, the one with the fewest ``*``, and the first in the file among equals.

        Returns:
            ``nvgrace_gpu_vfio_pci``, ``vfio_pci``, …, or ``None`` when no pattern matches.

        Raises:
            ParseError: ``modalias`` is not one of a PCI device.
        """
        wanted = _modalias(modalias)
        best = min(
            (
                (stars, number, module)
                for number, (stars, pattern, module) in enumerate(self._vfio)
                if wanted.matches(pattern)
            ),
            default=None,
        )
        return best[2] if best else None

    def knows(self, module: str) -> bool:
        """Say whether a module of this name exists; ``-`` and ``_`` mean the same."""
        return module_name(module) in self.names or module_name(module) in self._aliased

    def _of_vendor(self, vendor: str) -> Mapping[str, list[tuple[int, str, str]]]:
        """Number, pattern and module of the ``pci:`` aliases that can cover a vendor's devices.

        By the device that a pattern names, ``""`` where it names none: most are about one device,
        and a search looks at the few that can match. A host has few vendors: so it costs less to go
        through the text for each than to take apart the lines of all.
        """
        if vendor not in self._tables:
            lines = re.compile(_VENDOR_LINES.format(vendor=re.escape(vendor)), re.MULTILINE)
            table = self._tables[vendor] = defaultdict(list)
            for number, (pattern, device, module) in enumerate(lines.findall(self._lines)):
                table[device].append((number, pattern, module))
        return self._tables[vendor]

    @cached_property
    def _tables(self) -> dict[str, defaultdict[str, list[tuple[int, str, str]]]]:
        return {}

    @property
    def _lines(self) -> str:
        """The text with a line's end before each line."""
        return f"\n{self.aliases}"

    @cached_property
    def _vfio(self) -> list[tuple[int, str, str]]:
        """Number of ``*``, pattern and module of the ``vfio_pci:`` aliases that make sense."""
        return [
            (split.groups().count("*"), pattern, module)
            for pattern, module in _VFIO_LINES.findall(self._lines)
            if (split := _FIELDS.fullmatch(pattern))
        ]

    @cached_property
    def _aliased(self) -> frozenset[str]:
        named = (*_PCI_LINES.findall(self._lines), *_VFIO_LINES.findall(self._lines))
        return frozenset(module_name(module) for _, module in named)


# Not slotted, as ModuleIndex is not: each text is taken apart once, for all devices.
@attrs.frozen(slots=False)
class ModuleLookup:
    """Which modules libkmod finds for a modalias: the ``Kernel modules:`` of lspci.

    libkmod asks one source after the other, and the first that knows the modalias answers alone
    (``libkmod/libkmod-module.c:kmod_module_new_from_lookup``): aliases of ``modprobe.d``, then
    ``modules.alias``, then the aliases of what is built in. What is blacklisted is found as well.
    Read in the sources of kmod 30 and pciutils 3.9.0, which are Debian 12's.

    Attributes:
        config: the ``*.conf`` files of ``modprobe.d`` one after the other, sorted by name.
        index: what ``modules.alias`` says; ``None`` where the kernel's modules are not there.
        builtin: ``modules.builtin.modinfo`` (``MODULE.alias=PATTERN``, a NUL behind each).
    """

    config: str = attrs.field(repr=False)
    index: ModuleIndex | None
    builtin: str = attrs.field(repr=False)

    def modules(self, modalias: str) -> tuple[str, ...]:
        r"""The modules for a modalias, in lspci's order; none for what is no PCI device's.

        Args:
            modalias: the attribute's text. lspci (3.9.0) hands libkmod its newline too, so that
                only a pattern which ends in ``*``, as all the kernel's do, covers it.
        """
        if self.index is None:  # lspci cannot load libkmod's resources, then
            return ()
        try:
            text = f"{Modalias.parse(modalias)}\n"
        except ParseError:
            return ()
        configured = [module for pattern, module in self._configured if _covers(pattern, text)]
        found = configured or self._loadable(text) or self._built_in(text)
        # lspci.c:next_module_filtered leaves out what it has just printed.
        return tuple(module for module, _ in groupby(found))

    def _loadable(self, text: str) -> list[str]:
        # Sorted by the module's place in depmod's order, in which it has written the file.
        matching = [] if self.index is None else self.index.matching(text)
        return list(dict.fromkeys(module for pattern, module in matching if pattern.endswith("*")))

    def _built_in(self, text: str) -> list[str]:
        """Built-in modules, all of one priority: libkmod has them in reverse order of its search.

        It goes down the letters of the modalias; at each of them, the patterns come first that have
        a wildcard there, in alphabetical order, a shorter one behind the longer that it begins
        (``libkmod/libkmod-index.c:index_mm_searchwild_node`` and ``add_value``).
        """

        def place(found: tuple[str, str]) -> tuple[int, int, str]:
            pattern = found[0]
            wildcard = _WILDCARD.search(pattern)
            at = wildcard.start() if wildcard else len(pattern)
            return at, "*?[".find(pattern[at : at + 1]), pattern + _LAST

        matching = [each for each in self._aliased if _covers(each[0], text)]
        return [module for _, module in sorted(matching, key=place, reverse=True)]

    @cached_property
    def _configured(self) -> list[tuple[str, str]]:
        """Pattern and module of the ``alias`` lines (``libkmod-config.c:kmod_config_parse``)."""
        lines = (line.split() for line in _CONTINUED.sub("", self.config).splitlines())
        return [
            (words[1].replace("-", "_"), words[2].replace("-", "_"))
            for words in lines
            if len(words) > len(("alias", "pattern")) and words[0] == "alias"
        ]

    @cached_property
    def _aliased(self) -> list[tuple[str, str]]:
        """Pattern and module of the ``pci:`` aliases of what is built in."""
        lines = (line.partition("=") for line in self.builtin.split("\0") if ".alias=pci:" in line)
        return [(pattern, name.partition(".")[0]) for name, _, pattern in lines]


def module_name(text: str) -> str:
    """The kernel's name of a module: no folder, no ``.ko``, underscores (``vfio_pci``)."""
    return text.rsplit("/", 1)[-1].split(".ko", 1)[0].replace("-", "_")


def driver_of(module: str) -> str:
    """The PCI driver that a module brings, as far as its name tells.

    Args:
        module: as :func:`module_name` gives it.
    """
    return _DRIVERS.get(module, module)


def module_of(driver: str) -> str:
    """The module that brings a PCI driver, as far as its name tells."""
    return _MODULES.get(driver, module_name(driver))


def _modalias(given: str | Modalias) -> Modalias:
    return given if isinstance(given, Modalias) else Modalias.parse(given)


def _is_glob(text: str) -> bool:
    return any(c in text for c in "*?[")


def _covers(pattern: str, text: str) -> bool:
    return len(pattern) <= _PATTERN_MAX and fnmatchcase(text, pattern)
