"""The verbs that say what guests can be given, in the words of other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.guests.cdi import cdi_json
from vfiohost.guests.kubevirt import kubevirt_yaml, left_out, vmi_yaml
from vfiohost.guests.libvirt import libvirt_xml
from vfiohost.guests.qemu import qemu_arguments
from vfiohost.guests.ready import all_ready, named_ready
from vfiohost.guests.resources import (
    collisions,
    nameless,
    namesakes,
    resources,
    unknown_vgpus,
)
from vfiohost.plan.mdev import as_uuid
from vfiohost.render.table import format_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vfiohost.cli.session import Session
    from vfiohost.guests.ready import Ready
    from vfiohost.model import Problem, Snapshot
    from vfiohost.names import PciNames


def show_resources(session: Session) -> None:
    """``vfiohost resources``: what NVIDIA's sandbox device plugin would offer."""
    snapshot = session.scan(mdev=True)
    found = resources(snapshot, session.host.names)
    _warn(session, collisions(found))
    _warn(session, namesakes(found, session.host.names))
    _warn(session, nameless(snapshot.mdev.devices if snapshot.mdev else ()))
    _warn(session, unknown_vgpus(snapshot))
    session.value["allocatable"] = {r.name: len(r.devices) for r in found}
    session.value["resources"] = [
        {"name": r.name, "kinds": list(r.kinds), "devices": list(r.devices)} for r in found
    ]
    if found:
        session.lines += format_table(
            ("RESOURCE", "COUNT", "DEVICES"),
            [
                ((r.name, "plain"), (str(len(r.devices)), "plain"), (" ".join(r.devices), "plain"))
                for r in found
            ],
            right=("COUNT",),
        )
    elif not session.options.quiet and not session.output.json:
        session.output.notes(["vfiohost: NVIDIA's device plugin would offer nothing here."])


def show_ready(session: Session) -> None:
    """``vfiohost print FORMAT [DEV|UUID ..]``: what is ready for guests, for another tool."""
    options = session.options
    snapshot = session.scan(mdev=True)
    ready = _ready(session, snapshot)
    _warn(session, ready.problems)
    form = options.format or ""
    text = _TEXTS[form](session, ready)
    session.value["printed"] = {
        "format": form,
        "text": text,
        "devices": [str(device.address) for device in ready.devices],
        "mdevs": [mdev.uuid for mdev in ready.mdevs],
    }
    session.document = text
    if not (ready.devices or ready.mdevs or options.quiet or session.output.json):
        session.output.notes(
            ["vfiohost: Nothing is ready for guests here: see `vfiohost bind --help`."]
        )


VERBS: Mapping[str, Callable[[Session], None]] = {
    "print": show_ready,
    "resources": show_resources,
}
"""The verbs of this module."""


def _warn(session: Session, problems: Iterable[Problem]) -> None:
    session.problems.update(dict.fromkeys(problems))


def _ready(session: Session, snapshot: Snapshot) -> Ready:
    """What was named, else all that is ready."""
    words = session.options.devices
    if not words:
        return all_ready(snapshot)
    uuids = [uuid for word in words if (uuid := as_uuid(word)) is not None]
    devices = [word for word in words if as_uuid(word) is None]
    found = session.host.select(devices, snapshot) if devices else ()
    return named_ready(snapshot, found, uuids)


def _cluster(make: Callable[[Ready, PciNames], str]) -> Callable[[Session, Ready], str]:
    """Make a text for a cluster, and tell what it cannot have and what it cannot tell apart."""

    def text(session: Session, ready: Ready) -> str:
        names = session.host.names
        _warn(session, left_out(ready))
        _warn(session, nameless(ready.mdevs))
        found = resources(session.scan(mdev=True), names)
        _warn(session, collisions(found))
        _warn(session, namesakes(found, names))
        return make(ready, names)

    return text


_TEXTS: Mapping[str, Callable[[Session, Ready], str]] = {
    "kubevirt": _cluster(kubevirt_yaml),
    "vmi": _cluster(vmi_yaml),
    "libvirt": lambda _, ready: libvirt_xml(ready),
    "qemu": lambda _, ready: qemu_arguments(ready),
    "cdi": lambda session, ready: cdi_json(ready, session.host.guest_nodes(ready)),
}
