"""What the recording knows and a tree cannot show: id tables, module contents, mdev tables."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from vfiohost.model import is_vfio_driver
from vfiohost.testing import class_devices, shared_disks, vendor_vgpu
from vfiohost.testing.releases import release_of

if TYPE_CHECKING:
    from vfiohost.recording import Function, Group, MdevTable, Module, PciDriver, Recording

_IDS = re.compile(r"pci:v([0-9A-F]{8})d([0-9A-F]{8})")

# Names of the drivers on the mdev bus where they differ from the parent's driver.
_MDEV_DRIVERS = {"nvidia": "nvidia-vgpu-vfio"}


class Blueprint:
    """A recording, indexed for the rules.

    Args:
        recording: the recorded host that the simulation was made of.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.modules: dict[str, Module] = {module.name: module for module in recording.modules}
        self.drivers: dict[str, PciDriver] = {
            driver.name: driver for module in recording.modules for driver in module.drivers
        }
        self.functions: dict[str, Function] = {
            function.path.rsplit("/", 1)[-1]: function for function in recording.functions
        }
        self.files = frozenset(file.path for file in recording.files)
        places = {f"sys/devices/{f.path}": address for address, f in self.functions.items()}
        self.class_devices = class_devices.by_function(recording.files, places)
        self.shared_disks = shared_disks.shared_disks(recording.files)
        self.groups: dict[int, Group] = {group.number: group for group in recording.groups}
        self.tables: dict[str, MdevTable] = {table.name: table for table in recording.mdev_tables}
        self.virtual_parents: dict[str, str] = {
            f"sys/devices/{parent.path}": parent.mdev_table for parent in recording.virtual_parents
        }
        self._vfs: dict[tuple[str, int], Function] = {
            (str(function.physfn), function.vf_index): function
            for function in recording.functions
            if function.physfn is not None and function.vf_index is not None
        }
        tables = {name: function.mdev_table for name, function in self.functions.items()}
        tables |= {path.rsplit("/", 1)[-1]: name for path, name in self.virtual_parents.items()}
        self._mdev_drivers: dict[str | None, str] = {
            tables.get(mdev.parent): mdev.driver
            for mdev in recording.mdevs
            if mdev.driver is not None
        }
        self._vgpu_models: dict[str, vendor_vgpu.Model | None] = {}
        self._seen_on: dict[str, set[str]] = self._bound_ids()
        self.release = release_of(recording.kernel)

    def _bound_ids(self) -> dict[str, set[str]]:
        """By driver: the ids that it was bound to, for drivers whose id table was not recorded."""
        found: dict[str, set[str]] = {}
        for function in self.functions.values():
            attribute = function.attributes.get("modalias")
            if function.driver is None or is_vfio_driver(function.driver) or attribute is None:
                continue
            text = attribute.content
            ids = _IDS.match(text.decode("ascii", "replace")) if isinstance(text, bytes) else None
            if ids is not None:
                found.setdefault(function.driver, set()).add(ids[0])
        return found

    def id_table(self, driver: str) -> tuple[str, ...]:
        """The modalias patterns of a driver's id table that hold without a driver_override."""
        known = self.drivers.get(driver)
        patterns = known.matches if known is not None else ()
        return tuple(pattern for pattern in patterns if pattern.startswith("pci:"))

    def in_id_table(self, driver: str, modalias: str) -> bool:
        """Whether a driver's id table has a device with this modalias.

        A driver whose table was not recorded has the ids that it was bound to.
        """
        table = self.id_table(driver)
        if table:
            return any(fnmatchcase(modalias, pattern) for pattern in table)
        ids = _IDS.match(modalias)
        return ids is not None and ids[0] in self._seen_on.get(driver, ())

    def group_type(self, group: int) -> str | None:
        """The type that an IOMMU group had when it was recorded."""
        found = self.groups[group].attributes.get("type") if group in self.groups else None
        text = None if found is None else found.content
        return text.decode("ascii", "replace").strip() if isinstance(text, bytes) else None

    def vf_template(self, physfn: str, index: int) -> Function | None:
        """The recorded virtual function with this index, or else any one of the same card."""
        exact = self._vfs.get((physfn, index))
        if exact is not None:
            return exact
        return next((vf for (pf, _), vf in self._vfs.items() if pf == physfn), None)

    def recorded_vf(self, physfn: str, index: int) -> Function | None:
        """The recorded virtual function with this index."""
        return self._vfs.get((physfn, index))

    def vgpu_model(self, physfn: str) -> vendor_vgpu.Model | None:
        """What a card can carry whose virtual functions take types of vGPUs."""
        if physfn not in self._vgpu_models:
            self._vgpu_models[physfn] = vendor_vgpu.model_of(self.recording, physfn)
        return self._vgpu_models[physfn]

    def group_files(self, number: int) -> dict[str, str]:
        """The files of a recorded IOMMU group."""
        known = [group for group in self.recording.groups if group.number == number]
        return {
            name: attribute.content.decode("utf-8", "surrogateescape")
            for group in known
            for name, attribute in group.attributes.items()
            if isinstance(attribute.content, bytes)
        }

    def mdev_table_name(self, address: str, physfn: str | None) -> str | None:
        """Name of the table that a function has; one made later has that of its card's others."""
        function = self.functions.get(address)
        if function is None and physfn is not None:
            function = self.vf_template(physfn, 0)
        return None if function is None else function.mdev_table

    def mdev_driver(self, table: MdevTable) -> str:
        """Name of the driver on the mdev bus that gets the devices of a table."""
        known = self._mdev_drivers.get(table.name)
        return known or _MDEV_DRIVERS.get(table.driver, table.driver)
