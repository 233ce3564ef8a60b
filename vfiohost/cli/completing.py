"""Completion of command lines: what can stand where the cursor is, from grammar and host."""

from __future__ import annotations

import argparse
import os
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.cli.options import ALLOW_WORDS
from vfiohost.cli.parser import build
from vfiohost.cli.shells import SCRIPTS
from vfiohost.errors import VfioHostError
from vfiohost.render.table import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from vfiohost.cli.session import Session
    from vfiohost.host import Host
    from vfiohost.model import Snapshot
    from vfiohost.vgpus import VgpuGpu

COMPLETE = "__complete"
"""The word that stands for the verb where a shell asks what can follow."""

FILES, DIRECTORIES = (":files", ""), (":directories", "")
"""Candidates that tell a shell to offer what it knows itself."""

# What no shell takes for more than a word: names in a hostile root may be commands.
_HARMLESS = re.compile(r"[\w:.,=+@%/-]+", re.ASCII)

Candidate = tuple[str, str]
"""A word, and what it is."""


def completion(session: Session) -> None:
    """``vfiohost completion SHELL``: print the script that makes a shell ask."""
    shell = session.options.shell or ""
    session.document = SCRIPTS[shell]
    session.value["completion"] = {"shell": shell, "script": SCRIPTS[shell]}


VERBS: Mapping[str, Callable[[Session], None]] = {"completion": completion}
"""The verbs of this module."""


def complete(words: Sequence[str]) -> str:
    """What answers a shell: on each line a candidate and what it is, a tabulator between them.

    Args:
        words: the command line behind the command, the last word as far as it is typed.

    Returns:
        What can stand for the last word. Nothing where that is not known, or the host cannot be
        read: a completion has nobody to tell.
    """
    try:
        line = _Line.read(words)
        found = list(line.candidates())
    except (VfioHostError, OSError):
        return ""
    typed = line.current
    fits = (c for c in found if c in (FILES, DIRECTORIES) or c[0].startswith(typed))
    told = dict.fromkeys(c for c in fits if _HARMLESS.fullmatch(c[0]))
    lines = ("\t".join(printable(text) for text in c if text) for c in told)
    return "".join(f"{line}\n" for line in lines)


@attrs.frozen
class _Line:
    """A command line up to the cursor.

    Attributes:
        parser: of the verb, as far as one is named.
        verbs: the names that led there.
        values: of the options before, by their name in :class:`Options`.
        positionals: the words before that are no options.
        option: the option whose value is being typed.
        current: the word that is being typed, or the part of it behind ``=`` or the last comma.
        prefix: what stands before that part.
    """

    parser: argparse.ArgumentParser
    verbs: tuple[str, ...]
    values: Mapping[str, str]
    positionals: tuple[str, ...]
    option: argparse.Action | None
    current: str
    prefix: str

    @classmethod
    def read(cls, words: Sequence[str]) -> _Line:
        *before, current = words or [""]
        parser: argparse.ArgumentParser = build(before)
        verbs, positionals = [], []
        values: dict[str, str] = {}
        option: argparse.Action | None = None
        for word in before:
            if option is not None:
                values[option.dest], option = word, None
            elif word.startswith("-") and word != "-":
                name, equals, value = word.partition("=")
                action = _option(parser, name)
                if action is not None and equals:
                    values[action.dest] = value
                elif action is not None and action.nargs != 0:
                    option = action
            elif (verb := _verbs(parser).get(word)) is not None:
                parser = verb
                verbs.append(word)
            else:
                positionals.append(word)
        prefix = ""
        if option is None and current.startswith("--") and "=" in current:
            prefix, option = (
                f"{current.partition('=')[0]}=",
                _option(parser, current.partition("=")[0]),
            )
        if option is not None and option.dest in _BY_COMMAS:
            kept, comma, _ = current.removeprefix(prefix).rpartition(",")
            plus = "+" if not kept and current.startswith("+") else ""  # of `list -o +COLS`
            prefix += kept + comma + plus
        return cls(parser, tuple(verbs), values, tuple(positionals), option, current, prefix)

    def candidates(self) -> Iterator[Candidate]:
        """What can stand here; what does not begin as the current word is still among it."""
        if self.option is not None:
            values = _Values(self).of(self.option)
            yield from (
                (c if c in (FILES, DIRECTORIES) else (self.prefix + c[0], c[1])) for c in values
            )
        elif self.current.startswith("-"):
            for action in self.parser._actions:  # noqa: SLF001 - argparse has no other way to ask
                shown = [n for n in action.option_strings if n.startswith("--")]
                if shown and action.help != argparse.SUPPRESS:
                    yield shown[-1], action.help or ""
        elif _verbs(self.parser):
            helps = {} if self.positionals else _verb_helps(self.parser)
            yield from helps.items()
        else:
            positional = [a for a in self.parser._actions if not a.option_strings]  # noqa: SLF001
            # One word each, as far as they go; the last takes all that come.
            at = min(len(self.positionals), len(positional) - 1)
            for action in positional[at:][:1]:
                yield from _Values(self).of(action)


def _subparsers(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[Any] | None:
    actions = parser._actions  # noqa: SLF001 - argparse has no other way to ask
    return next((a for a in actions if isinstance(a, argparse._SubParsersAction)), None)  # noqa: SLF001


def _verbs(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    found = _subparsers(parser)
    return {} if found is None else found.choices


def _verb_helps(parser: argparse.ArgumentParser) -> dict[str, str]:
    """What each verb does, by its name; an alias (``ls``) is none of them."""
    found = _subparsers(parser)
    listed = [] if found is None else found._choices_actions  # noqa: SLF001 - as above
    return {action.dest: action.help or "" for action in listed}


def _option(parser: argparse.ArgumentParser, name: str) -> argparse.Action | None:
    actions = parser._actions  # noqa: SLF001 - argparse has no other way to ask
    return next((a for a in actions if name in a.option_strings), None)


# ---- values ------------------------------------------------------------------------------------

_BY_COMMAS = frozenset({"allow", "class_", "columns", "driver", "group", "vendor"})
"""Options whose value may be several, by commas."""


class _Values:
    """What can be the value of an option or a word: read from the host when it is asked for."""

    def __init__(self, line: _Line) -> None:
        self._line = line

    def of(self, action: argparse.Action) -> Iterable[Candidate]:
        if action.choices is not None:
            return [(str(choice), "") for choice in action.choices]
        make = getattr(self, f"_{action.dest.rstrip('_')}", None)
        return () if make is None else make()

    @cached_property
    def _host(self) -> Host:
        from vfiohost.host import Host

        root = self._line.values.get("root") or os.environ.get("VFIOHOST_ROOT") or "/"
        return Host(root)

    @cached_property
    def _snapshot(self) -> Snapshot:
        return self._host.scan(mdev=True)

    def _devices(self) -> Iterator[Candidate]:
        from vfiohost.selectors import CLASSES

        verb = self._line.verbs[:1]
        if verb == ("vgpu",):
            yield from self._gpu()
            return
        if self._line.verbs in (("driverctl", "import"), ("driverctl", "remove")):
            for kept in self._host.driverctl_overrides()[0]:
                name = kept.device if kept.address else kept.path.rpartition("/")[2]
                yield name, f"{kept.driver} at each boot"
            return
        names = None if "no_names" in self._line.values else self._host.names
        if verb == ("print",):
            yield from self._uuids()
        for device in self._snapshot.devices:
            if device.is_bridge and verb in (
                ("bind",),
                ("boot",),
                ("unbind",),
                ("print",),
                ("probe",),
                ("reset",),
            ):
                continue  # which goes to no guest
            driver = device.driver if isinstance(device.driver, str) else "no driver"
            name = names.full(device.vendor_id, device.device_id) if names else device.ids
            yield str(device.address), f"{name} ({driver})"
            if self._line.current and device.address.domain == 0:
                yield str(device.address)[5:], f"{name} ({driver})"
        ids = {device.ids: device for device in self._snapshot.devices}
        for each, device in ids.items():
            yield each, names.full(device.vendor_id, device.device_id) if names else "all of these"
        yield from ((f"class:{name}", "all of this class") for name in CLASSES)
        yield from ((f"group:{n}", "the endpoints of a group") for n in self._snapshot.groups)

    def _ids(self) -> Iterator[Candidate]:
        for number, group in self._snapshot.groups.items():
            yield str(number), ", ".join(str(member.address) for member in group.members)

    def _group(self) -> Iterator[Candidate]:
        yield from self._ids()
        yield "none", "what is in no group"

    def _driver(self) -> Iterator[Candidate]:
        if self._line.verbs[:1] in (("bind",), ("boot",)):
            yield "vfio-pci", "for guests"
            yield "auto", "the best VFIO variant driver"
        yield "none", "no driver"
        yield from ((name, "") for name in self._snapshot.drivers)

    def _class(self) -> Iterator[Candidate]:
        from vfiohost.selectors import CLASSES

        yield from ((name, f"class code {' '.join(codes)}") for name, codes in CLASSES.items())

    def _vendor(self) -> Iterator[Candidate]:
        for vendor in dict.fromkeys(device.vendor_id for device in self._snapshot.devices):
            yield f"{vendor:04x}", self._host.names.vendor(vendor)

    def _columns(self) -> Iterator[Candidate]:
        from vfiohost.render.listing import COLUMNS

        yield from ((name, "") for name in COLUMNS)

    def _allow(self) -> Iterator[Candidate]:
        yield from ((word, "") for word in ALLOW_WORDS)

    def _gpu(self) -> Iterator[Candidate]:
        for gpu in self._vgpu_gpus:
            yield str(gpu.address), f"{len(gpu.types)} types, {len(gpu.vgpus)} vGPUs"

    def _vgpus(self) -> Iterator[Candidate]:
        for gpu in self._vgpu_gpus:
            for vgpu in gpu.vgpus:
                yield vgpu.name, f"{gpu.by_id.get(str(vgpu.type_id))} on {gpu.address}"

    @cached_property
    def _vgpu_gpus(self) -> Sequence[VgpuGpu]:
        gpus = self._host.vgpu_gpus(snapshot=self._snapshot)
        return [gpu for gpu in gpus if gpu.backend is not None]

    def _vgpu_types(self) -> Iterator[Candidate]:
        from vfiohost.plan.vgpu_room import capacities

        wanted = self._line.values.get("gpu")
        for gpu in self._vgpu_gpus:
            if wanted in (None, str(gpu.address), str(gpu.address)[5:]):
                for each in capacities(gpu):
                    yield each.kind.short, f"{each.kind.type_id} ({each.room} left)"

    def _parent(self) -> Iterator[Candidate]:
        for parent in self._snapshot.mdev.parents if self._snapshot.mdev else ():
            yield parent.name, f"{len(parent.types)} types"

    def _type(self) -> Iterator[Candidate]:
        if self._line.verbs[:1] == ("vgpu",):
            yield from self._vgpu_types()
            return
        wanted = self._line.values.get("parent")
        for parent in self._snapshot.mdev.parents if self._snapshot.mdev else ():
            if wanted in (None, parent.name, parent.name[5:]):
                for kind in parent.types:
                    left = kind.available_instances
                    yield kind.type_id, f"{kind.name or ''} ({left} left)"

    def _uuid(self) -> Iterator[Candidate]:
        if self._line.verbs in (("mdev", "modify"), ("mdev", "undefine")):
            for each in self._host.mdev_definitions()[0]:
                yield each.uuid, f"{each.mdev_type} on {each.parent}, {each.start}"

    def _uuids(self) -> Iterator[Candidate]:
        if self._line.verbs == ("mdev", "start"):
            running = {m.uuid for m in (self._snapshot.mdev.devices if self._snapshot.mdev else ())}
            for each in self._host.mdev_definitions()[0]:
                if each.uuid not in running:
                    yield each.uuid, f"{each.mdev_type} on {each.parent}, {each.start}"
            return
        for mdev in self._snapshot.mdev.devices if self._snapshot.mdev else ():
            yield mdev.uuid, f"{mdev.type_name or mdev.type_id} on {mdev.parent}"

    def _journal_id(self) -> Iterator[Candidate]:
        for entry in self._host.journal.entries():
            yield entry.id, str(entry)

    def _keep(self) -> Iterator[Candidate]:
        yield from ((entry.id, str(entry)) for entry in self._host.journal.unfinished())

    def _method(self) -> Iterator[Candidate]:
        methods = ("acpi", "af_flr", "bus", "cxl_bus", "device_specific", "flr", "pm")
        yield from ((method, "") for method in methods)  # drivers/pci/pci.c, pci_reset_fn_methods

    def _words(self) -> Iterator[Candidate]:
        """Of ``sim``: a host that comes with vfiohost or a file, then a directory."""
        if self._line.positionals:
            yield DIRECTORIES
            return
        from vfiohost.testing import fixtures

        yield from fixtures.names().items()
        yield FILES

    def _root(self) -> Iterator[Candidate]:
        yield DIRECTORIES

    def _file(self) -> Iterator[Candidate]:
        yield FILES

    def _physfn(self) -> Iterator[Candidate]:
        yield from (
            (str(d.address), f"{d.total_vfs} virtual functions")
            for d in self._snapshot.devices
            if d.total_vfs
        )

    def _jsonfile(self) -> Iterator[Candidate]:
        yield FILES

    def _host_file(self) -> Iterator[Candidate]:
        yield FILES

    def _svg(self) -> Iterator[Candidate]:
        yield FILES
