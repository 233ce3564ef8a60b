"""Hypothesis strategies for recordings.

``recordings()`` gives anything that the text format must carry. ``host_trees()`` gives recordings
of hosts that could exist, whose directories can be made and recorded again.
"""

from __future__ import annotations

import errno
import posixpath
from typing import TYPE_CHECKING, Any, get_args

import attrs
from hypothesis import strategies as st

from vfiohost.model import PciAddress
from vfiohost.recording import (
    Attribute,
    File,
    Function,
    Group,
    Mdev,
    MdevTable,
    MdevTableType,
    Module,
    ModuleState,
    Part,
    PciDriver,
    Recording,
    VirtualParent,
    modalias_text,
    uevent_text,
)
from vfiohost.recording.modes import usual_mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hypothesis.strategies import SearchStrategy

# Texts that look like something else in the format.
TRICKY = (
    *("none", "absent", "<usual>", "!EACCES", '"', "| x", "|*3 x", "x 00ff", "a = b", "#", "\\"),
    *(" lead", "trail ", "two  spaces", "yes", "vendor", "driver", "type", "content", "mode"),
    *("[0644]", "function", "like", "at", "->", "\u2028", "\x7f", "ü", "日本", "\udcff"),
)

texts = st.one_of(
    st.sampled_from(TRICKY),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
)
names = st.one_of(
    st.sampled_from(TRICKY),
    st.from_regex(r"[a-z0-9_.:/-]{1,12}", fullmatch=True),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
)
numbers = st.integers(0, 999_999_999)
modes = st.none() | st.integers(0, 0o7777)
contents = st.one_of(
    texts.map(lambda text: text.encode("utf-8", "surrogateescape") + b"\n"),
    st.lists(texts | st.just("same"), max_size=6).map(
        lambda lines: "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    ),
    st.sampled_from([b"", b"\n", b"\n\n", b"no newline", b"\xff\xfe\n", b"a\rb\n", b"\0" * 100]),
    st.binary(max_size=300),
)
errnos = st.sampled_from(sorted(errno.errorcode)) | st.integers(1, 4095)
attributes = st.builds(Attribute, contents | errnos, modes)
addresses = st.builds(
    PciAddress,
    st.sampled_from([0, 1, 0xFFFF, 0x10000, 0x5D0505, 0xFFFFFFFF]),
    st.integers(0, 0xFF),
    st.integers(0, 0x1F),
    st.integers(0, 7),
)

_ids = st.integers(0, 0xFFFF).map(lambda number: f"0x{number:04x}\n".encode())
_usual = st.fixed_dictionaries(
    {
        "vendor": _ids,
        "device": _ids,
        "subsystem_vendor": _ids,
        "subsystem_device": _ids,
        "class": st.integers(0, 0xFFFFFF).map(lambda number: f"0x{number:06x}\n".encode()),
    }
).map(lambda found: {name: Attribute(content) for name, content in found.items()})


def _with_texts(
    address: PciAddress, driver: str | None, files: Mapping[str, Attribute]
) -> dict[str, Attribute]:
    """Add the ``modalias`` and ``uevent`` that belong to the ids."""
    modalias, uevent = modalias_text(files), uevent_text(str(address), driver, files)
    found = {"modalias": modalias, "uevent": uevent}
    return dict(files) | {name: Attribute(text) for name, text in found.items() if text is not None}


@st.composite
def functions(draw: st.DrawFn, address: PciAddress) -> Function:
    driver = draw(st.none() | texts)
    files: dict[str, Attribute] = draw(st.dictionaries(names, attributes, max_size=3))
    if draw(st.booleans()):
        files |= _with_texts(address, driver, draw(_usual))
    parent = draw(st.sampled_from(["", "pci0000:00", "pci0000:00/0000:00:01.0", "a b"]))
    return Function(
        path=f"{parent}/{address}" if parent else str(address),
        driver=driver,
        iommu_group=draw(st.none() | numbers),
        physfn=draw(st.none() | addresses),
        vf_index=draw(st.none() | numbers),
        attributes=files,
        mdev_table=draw(st.none() | texts),
    )


@st.composite
def alike(draw: st.DrawFn, function: Function, address: PciAddress) -> Function:
    """A function that differs from another in little."""
    files = dict(function.attributes)
    if draw(st.booleans()) and files:
        del files[draw(st.sampled_from(sorted(files)))]
    parent = function.path.rpartition("/")[0]
    return attrs.evolve(
        function,
        path=f"{parent}/{address}" if parent else str(address),
        vf_index=draw(st.none() | numbers),
        attributes=files | draw(st.dictionaries(names, attributes, max_size=1)),
    )


@st.composite
def _function_lists(draw: st.DrawFn) -> tuple[Function, ...]:
    found: list[Function] = []
    for address in draw(st.lists(addresses, unique=True, max_size=6)):
        if draw(st.booleans()) and found:
            like: Function = draw(st.sampled_from(found))
            found.append(draw(alike(like, address)))
        else:
            found.append(draw(functions(address)))
    return tuple(found)


def _unique(strategy: SearchStrategy[Any], key: str) -> SearchStrategy[Any]:
    by_key = st.lists(strategy, max_size=3, unique_by=lambda each: getattr(each, key))
    return by_key.map(tuple)


_drivers = st.builds(PciDriver, texts, st.lists(texts, max_size=3).map(tuple), st.booleans())


@st.composite
def _modules(draw: st.DrawFn) -> Module:
    drivers = tuple(draw(st.lists(_drivers, max_size=2)))
    usual = tuple(match for driver in drivers for match in driver.matches)
    return Module(
        name=draw(names),
        state=draw(st.sampled_from(get_args(ModuleState))),
        drivers=drivers,
        depends=tuple(draw(st.lists(names, max_size=3))),
        aliases=draw(st.just(usual) | st.lists(texts, max_size=3).map(tuple)),
    )


_groups = st.builds(Group, numbers, st.dictionaries(names, attributes, max_size=3))
_types = st.builds(MdevTableType, texts, st.none() | texts, numbers, st.none() | texts)
_tables = st.builds(
    MdevTable,
    name=names,
    driver=texts,
    device_api=texts,
    types=st.lists(_types, max_size=3).map(tuple),
    scope=st.sampled_from(["parent", "physfn"]),
    homogeneous=st.booleans(),
    per_parent=st.none() | numbers,
    exhausted=st.sampled_from(["EUSERS", "ENOSPC"]),
)
_mdevs = st.builds(
    Mdev,
    uuid=st.uuids().map(str) | names,
    parent=texts,
    type_id=texts,
    driver=st.none() | texts,
    iommu_group=st.none() | numbers,
    attributes=st.dictionaries(names, attributes, max_size=3),
)
_files = st.builds(File, names, st.one_of(contents, names, st.none()), modes)


def recordings() -> SearchStrategy[Recording]:
    """Anything that a recording can hold, possible as a host or not."""
    return st.builds(
        Recording,
        title=texts,
        source=texts,
        notes=st.lists(texts, max_size=2).map(tuple),
        kernel=st.none() | texts,
        lacks=st.frozensets(st.sampled_from(get_args(Part))),
        functions=_function_lists(),
        modules=_unique(_modules(), "name"),
        groups=_unique(_groups, "number"),
        mdev_tables=_unique(_tables, "name"),
        virtual_parents=_unique(st.builds(VirtualParent, names, texts), "path"),
        mdevs=_unique(_mdevs, "uuid"),
        files=_unique(_files, "path"),
    )


# ---- hosts that could exist --------------------------------------------------------------------

_ODD_FILES = ("irq", "power_state", "resource", "revision", "power/control", "reset_method")
_file_contents = contents | st.just(errno.EACCES)
_plain_name = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True)


def _tree_attribute(content: bytes | int, mode: int | None) -> Attribute:
    """What is unreadable has no read permission; what can be read has it for its owner."""
    if isinstance(content, int):
        return Attribute(content, None)
    return Attribute(content, None if mode is None else mode | 0o400)


_tree_attributes = st.builds(_tree_attribute, _file_contents, st.none() | st.integers(0, 0o777))


def _tree_files(names: Iterable[str]) -> SearchStrategy[dict[str, Attribute]]:
    """Files whose modes are told only where they are not the usual ones."""

    def only_unusual(files: dict[str, Attribute]) -> dict[str, Attribute]:
        return {
            name: attrs.evolve(file, mode=None) if file.mode == usual_mode(name) else file
            for name, file in files.items()
        }

    drawn = st.dictionaries(st.sampled_from(sorted(names)), _tree_attributes, max_size=3)
    return drawn.map(only_unusual)


@st.composite
def _host_function(draw: st.DrawFn, address: PciAddress, path: str, drivers: list[str]) -> Function:
    driver = draw(st.none() | st.sampled_from(drivers))
    files = _with_texts(address, driver, draw(_usual))
    files["driver_override"] = Attribute(b"(null)\n")
    files |= draw(_tree_files(_ODD_FILES))
    for name in draw(st.sets(st.sampled_from(["uevent", "driver_override", "subsystem_vendor"]))):
        del files[name]
    return Function(path, driver, draw(st.none() | st.integers(0, 3)), attributes=files)


def _matches(driver: str, found: Iterable[Function]) -> tuple[str, ...]:
    """The id table that a driver must have when all that is known is what it is bound to."""
    bound = [f.attributes["modalias"].content for f in found if f.driver == driver]
    texts = [text.decode().strip() for text in bound if isinstance(text, bytes)]
    return tuple(dict.fromkeys(texts))


@st.composite
def host_trees(draw: st.DrawFn) -> Recording:
    """A host whose directory can be made, and that can be recorded from it without loss.

    Its drivers are built in: of others, the kernel shows less than a recording holds.
    """
    drivers = draw(st.lists(_plain_name, min_size=1, max_size=3, unique=True))
    found: list[Function] = []
    for address in sorted(draw(st.lists(addresses, unique=True, max_size=5))):
        inside = [f"{f.path}/" for f in found]
        parent = draw(st.sampled_from(["pci0000:00/", *inside]))
        found.append(draw(_host_function(address, f"{parent}{address}", drivers)))
    for index, function in enumerate(found[1:]):
        beside = posixpath.dirname(function.path) == posixpath.dirname(found[0].path)
        if draw(st.booleans()) and beside:
            vf = attrs.evolve(function, physfn=found[0].address, vf_index=index)
            found[index + 1] = vf
    groups = {f.iommu_group for f in found if f.iommu_group is not None}
    group_files = _tree_files(["name", "reserved_regions", "type"])
    return Recording(
        title=draw(texts),
        source=draw(texts),
        functions=tuple(found),
        modules=tuple(
            Module(name, "builtin", (PciDriver(name, _matches(name, found)),))
            for name in sorted(drivers)
        ),
        groups=tuple(Group(number, draw(group_files)) for number in sorted(groups)),
        files=(File("proc/cmdline", draw(contents)),),
    )
