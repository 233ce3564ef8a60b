"""Which files the boot needs, and what has to become of those that are there. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost.boot.initramfs import GENERATORS, modules_of
from vfiohost.boot.rule import RULE_PATH, parse_rule, rule_text
from vfiohost.boot.unit import UNIT_PATH
from vfiohost.boot.words import is_ours
from vfiohost.errors import PlanRefused, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from vfiohost.boot.devices import BootDevice
    from vfiohost.boot.initramfs import Generator

PLAIN_MODE = 0o644
PATHS = (RULE_PATH, *(generator.path for generator in GENERATORS), UNIT_PATH)
"""Every file that may be made, relative to the root."""


@attrs.frozen
class Found:
    """What there is under the name of a file.

    Attributes:
        text: of a plain file; ``None`` where there is none, or something else.
        kind: what stands there instead of a plain file (``a symbolic link``), or why it cannot be
            read, as a phrase; ``None`` where there is a plain file or nothing.
        changed: when it was last written, in nanoseconds since 1970; 0 where there is none.
    """

    text: str | None = None
    kind: str | None = None
    changed: int = 0

    @property
    def is_ours(self) -> bool:
        """Whether vfiohost has made it."""
        return self.text is not None and is_ours(self.text)

    @property
    def is_foreign(self) -> bool:
        """Whether there is something that vfiohost has not made."""
        return self.kind is not None or (self.text is not None and not self.is_ours)


@attrs.frozen
class FileChange:
    """What is to become of one file.

    Attributes:
        path: relative to the root.
        before: the text that it has, or ``None``: there is no such file.
        after: the text that it is to have, or ``None``: it is to go.
        mode: its permissions.
    """

    path: str
    before: str | None
    after: str | None
    mode: int = PLAIN_MODE

    @property
    def kind(self) -> Literal["make", "change", "remove", "keep"]:
        """What is done, in a word."""
        if self.before == self.after:
            return "keep"
        if self.before is None:
            return "make"
        return "remove" if self.after is None else "change"


@attrs.frozen
class BootPlan:
    """What the files for the boot are to be.

    Attributes:
        devices: which devices are given to drivers then, in order of address.
        changes: the files that are there or are to be, in a fixed order.
        commands: what makes the initramfs anew afterwards; empty when that is not needed.
        notes: what else is worth knowing, as sentences.
    """

    devices: tuple[BootDevice, ...]
    changes: tuple[FileChange, ...]
    commands: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """All files are already as they are to be."""
        return all(change.kind == "keep" for change in self.changes)


def wanted_files(
    devices: Iterable[BootDevice], generators: Sequence[Generator], unit: str | None = None
) -> dict[str, tuple[str, int]]:
    """The text and mode of each file that some devices need, by path.

    Args:
        devices: which are to have drivers; none need no file.
        generators: the programs that make initramfs on this host.
        unit: the text of the service, where one is needed.
    """
    devices = sorted(devices, key=lambda device: device.address)
    files = {} if unit is None else {UNIT_PATH: (unit, PLAIN_MODE)}
    if not devices:
        return files
    files[RULE_PATH] = (rule_text(devices), PLAIN_MODE)
    for generator in generators if any(device.early for device in devices) else ():
        files[generator.path] = (generator.text(modules_of(devices)), generator.mode)
    return files


def known_devices(found: Mapping[str, Found]) -> tuple[BootDevice, ...]:
    """The devices that the rule is about; none where there is no rule of ours.

    Args:
        found: what there is now, by each path of :data:`PATHS`.

    Raises:
        ParseError: the rule makes no sense.
    """
    rule = found[RULE_PATH]
    return parse_rule(rule.text) if rule.text is not None and rule.is_ours else ()


def known_unit(found: Mapping[str, Found]) -> str | None:
    """The text of the service, or ``None``: there is none of ours."""
    return found[UNIT_PATH].text if found[UNIT_PATH].is_ours else None


def plan_files(
    devices: Iterable[BootDevice],
    found: Mapping[str, Found],
    generators: Sequence[Generator],
    unit: str | None = None,
) -> BootPlan:
    """Plan the files for some devices; those that are not needed any more go.

    Args:
        devices: which are to have drivers when the host starts.
        found: what there is now, by each path of :data:`PATHS`.
        generators: the programs that make initramfs on this host.
        unit: the text of the service, where one is needed.

    Raises:
        PlanRefused: a file that is needed is somebody else's.
    """
    devices = tuple(sorted(devices, key=lambda device: device.address))
    wanted = wanted_files(devices, generators, unit)
    foreign = [path for path in wanted if found[path].is_foreign]
    if foreign:
        raise PlanRefused([foreign_file(path, found[path]) for path in foreign])
    changes = tuple(_changes(wanted, found))
    return BootPlan(
        devices,
        changes,
        tuple(_commands(changes, generators)),
        (*_notes(devices, generators), *_service_notes(changes)),
    )


def _changes(
    wanted: Mapping[str, tuple[str, int]], found: Mapping[str, Found]
) -> Iterator[FileChange]:
    for path in PATHS:
        before = found[path].text if found[path].is_ours else None
        after, mode = wanted.get(path, (None, PLAIN_MODE))
        if before is not None or after is not None:
            yield FileChange(path, before, after, mode)


def _commands(
    changes: Sequence[FileChange], generators: Sequence[Generator]
) -> Iterator[tuple[str, ...]]:
    """Who carries the rule: unasked, or asked by a file that is there before or after."""
    about = {change.path for change in changes}
    if any(change.kind != "keep" for change in changes if change.path != UNIT_PATH):
        for generator in generators:
            if generator.takes_rules or generator.path in about:
                yield generator.command


def _notes(devices: Sequence[BootDevice], generators: Sequence[Generator]) -> Iterator[str]:
    early = [str(device.address) for device in devices if device.early]
    if early and not generators:
        known = " and ".join(generator.name for generator in GENERATORS)
        yield (
            f"No program that makes an initramfs was found here ({known} are known). If this host "
            f"starts from one that has the driver of {', '.join(early)}, it has to carry "
            f"/{RULE_PATH} and the modules {', '.join(modules_of(devices))}."
        )


def _service_notes(changes: Sequence[FileChange]) -> Iterator[str]:
    """What systemd has to be told: a file alone starts no service."""
    name = UNIT_PATH.rpartition("/")[2]
    for change in changes:
        if change.path == UNIT_PATH and change.kind == "make":
            yield f"Have it started from the next boot on: `systemctl enable {name}`."
        elif change.path == UNIT_PATH and change.kind == "remove":
            yield f"Take its link away, too: `systemctl disable {name}`."


def foreign_file(path: str, found: Found, done: str = "replaced") -> Refusal:
    """The refusal of a file that is not of the kind, or not by whom, it should be.

    Args:
        path: where it is, relative to the root.
        found: what it is.
        done: what is not done to it, as a participle.
    """
    what = f"is {found.kind}" if found.kind else "was not made by vfiohost"
    return Refusal(
        "foreign-file",
        f"/{path}",
        f"/{path} {what}, so it is not {done}.",
        "Look at it, and move it away if nothing needs it.",
    )
