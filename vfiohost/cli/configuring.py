"""The verbs on vGPU configurations: ``vgpu apply``, ``vgpu assert``, ``vgpu config``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vfiohost.cli.carrying import EXIT_CHANGES
from vfiohost.cli.declaring import apply_stages, show_stages
from vfiohost.render.differences import difference_lines, difference_value
from vfiohost.vgpu_config import MOST_BYTES, default_config, mig_parted, parse, render
from vfiohost.vgpu_stages import DeclaredVgpus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vfiohost.cli.session import Session
    from vfiohost.vgpu_config import Config, Selection


def apply(session: Session) -> None:
    """``vfiohost vgpu apply -f FILE [-c NAME]``: make the vGPUs what a configuration says."""
    name, declared = _chosen(session)
    if session.options.valid_config:
        return
    snapshot = session.scan(mdev=True)
    _tell(session, name, declared.selection(snapshot))
    stages = declared.stages(snapshot)
    if session.options.dry_run:
        show_stages(session, stages, snapshot)
    else:
        apply_stages(session, stages, f"vgpu apply {name}")


def check(session: Session) -> None:
    """``vfiohost vgpu assert -f FILE [-c NAME]``: say in what the vGPUs differ from it."""
    name, declared = _chosen(session)
    if session.options.valid_config:
        return
    found = declared.differences(session.scan(mdev=True))
    session.value["differences"] = [difference_value(each) for each in found]
    session.exit_code = EXIT_CHANGES if found else 0
    if session.options.quiet:
        return
    paint = session.output.paint_for(sys.stdout)
    as_said = [f"the vGPUs are as {name} says"]
    session.lines += difference_lines(found, paint) if found else as_said


def config(session: Session) -> None:
    """``vfiohost vgpu config default``: print the configurations that follow from the boards."""
    text = render(default_config())
    session.document = text
    session.value["vgpu_config"] = {"text": text}


def _chosen(session: Session) -> tuple[str, DeclaredVgpus]:
    """The configuration that is meant, on the host."""
    options = session.options
    config = _given(options.host_file or "-")
    name, entries = config.choose(options.config)
    session.value["vgpu_config"] = {"name": name, "warnings": list(config.warnings)}
    if not options.quiet:
        _say(session, [f"vfiohost: warning: {warning}" for warning in config.warnings])
        if options.valid_config:
            session.lines.append(f"{config.name}: {name} is valid")
    return name, DeclaredVgpus(session.host, entries, options.allowed, name=name)


def _given(name: str) -> Config:
    """The file that the user names: not below the root; ``-`` for standard input."""
    if name == "-":
        return parse(sys.stdin.read(MOST_BYTES + 1), "standard input")
    with open(name, encoding="utf-8", errors="surrogateescape") as stream:
        return parse(stream.read(MOST_BYTES + 1), name)


def _tell(session: Session, name: str, selection: Selection) -> None:
    """Say what the configuration leaves alone, and what it leaves to others."""
    session.value["vgpu_config"] |= {
        "uncovered": [str(address) for address in selection.uncovered],
        "mig_parted": mig_parted(name, selection.mig) if selection.mig else None,
    }
    if session.options.quiet:
        return
    lines = [
        f"note: {name} says nothing of GPU {address}; it stays as it is."
        for address in selection.uncovered
    ]
    if selection.mig:
        lines.append(
            f"note: {name} has MIG-backed vGPUs. Their GPU instances are made by "
            f"`nvidia-mig-parted apply -f FILE -c {name}`, with this FILE:"
        )
        lines += mig_parted(name, selection.mig).splitlines()
    _say(session, lines)


def _say(session: Session, lines: list[str]) -> None:
    """Say something at once: it matters as well when the plan is refused."""
    if lines and not session.output.json:
        session.output.notes(lines)


VERBS: Mapping[str, Callable[[Session], None]] = {
    "vgpu apply": apply,
    "vgpu assert": check,
    "vgpu config": config,
}
"""The verbs of this module."""
