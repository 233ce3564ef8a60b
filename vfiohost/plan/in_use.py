"""Nothing is taken away from someone who uses it: the uses that speak against a change.

Each kind of use is permitted by its own word of ``--allow``. Two are permitted by none: the disk
that the host runs from, and the clients of NVIDIA's driver, which does not come back from an unbind
while it has any (``nv_pci_remove`` in ``kernel-open/nvidia/nv-pci.c`` waits for its usage count).
A VFIO user can be permitted, since QEMU is asked to let go of the device, and often does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vfiohost.errors import Refusal
from vfiohost.model import is_vfio_driver
from vfiohost.plan.words import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vfiohost.model import Snapshot
    from vfiohost.plan.changes import Change
    from vfiohost.usage import Process, Usage, Use, UseKind

ALLOW_CONSOLE = "console"
ALLOW_DISPLAY = "display"
ALLOW_NETWORK = "network"
ALLOW_NODE = "node"
ALLOW_STORAGE = "storage"
ALLOW_VFIO_USER = "vfio-user"
ALLOW_VGPU = "vgpu"

CODE = "in-use"
"""The code of these refusals; their ``kind`` tells the rest."""

# What stops a service whose cgroup does not say so, by comm, which has 15 bytes at most.
_SERVICES = {
    "nvidia-persiste": "nvidia-persistenced",
    "nv-hostengine": "nvidia-dcgm",
    "nv-fabricmanage": "nvidia-fabricmanager",
    "nvidia-vgpu-mgr": "nvidia-vgpu-mgr",
    "nvidia-vgpud": "nvidia-vgpud",
}


class _Rule(NamedTuple):
    """The word that permits a kind of use, if one does, and what to do where it is no process."""

    word: str | None
    remedy: str = ""


_RULES: dict[UseKind, _Rule] = {
    "vfio-user": _Rule(ALLOW_VFIO_USER, "Shut down the guest"),
    "vfio-group": _Rule(ALLOW_VFIO_USER, "Shut down the guest"),
    "nvidia-user": _Rule(None),
    "node": _Rule(ALLOW_NODE),
    "vgpu": _Rule(ALLOW_VGPU, "Shut down its guest, then write 0 to {via}"),
    "drm": _Rule(ALLOW_DISPLAY),
    "sound": _Rule(ALLOW_DISPLAY),
    "framebuffer": _Rule(
        ALLOW_DISPLAY, "Keep the kernel off it (nomodeset, or initcall_blacklist=sysfb_init)"
    ),
    "console": _Rule(
        ALLOW_CONSOLE, "Move the console elsewhere (a text console: write 0 to {via})"
    ),
    "storage-user": _Rule(ALLOW_STORAGE),
    "mount": _Rule(ALLOW_STORAGE, "Unmount it"),
    "root-disk": _Rule(None, "The host runs from it: leave it to the host."),
    "swap": _Rule(ALLOW_STORAGE, "Take it out of swap (swapoff)"),
    "block-holder": _Rule(
        ALLOW_STORAGE,
        "Stop what is made of it (vgchange -an, mdadm --stop, dmsetup remove, losetup -d, zpool "
        "export)",
    ),
    "address": _Rule(ALLOW_NETWORK, "Give the address to another interface, or take this one down"),
    "route": _Rule(ALLOW_NETWORK, "Give the route to another interface, or take this one down"),
    "default-route": _Rule(ALLOW_NETWORK, "Give the host another way to the network first"),
    "interface-up": _Rule(
        ALLOW_NETWORK, "See what needs it, and take it down (ip link set … down)"
    ),
    "interface-elsewhere": _Rule(
        ALLOW_NETWORK, "Stop the container that has it, or take it back (ip link set … netns 1)"
    ),
    "network-member": _Rule(ALLOW_NETWORK, "Take it out of there (ip link set … nomaster)"),
}
"""The kinds that stand in the way; the others are no harm, or have refusals of their own."""


def use_hazards(snapshot: Snapshot, change: Change, allow: frozenset[str]) -> Iterator[Refusal]:
    """The uses that a change of drivers would end, of the device and what goes with it.

    Args:
        snapshot: the host, with its usage; without, nothing is known to be in use.
        change: the change.
        allow: the words that permit.
    """
    usage = snapshot.usage
    if usage is None or change.is_empty:
        return
    subject = str(change.address)
    if change.unbinds:
        functions = [
            subject,
            *(str(vf.address) for vf in snapshot.virtual_functions.get(change.address, ())),
        ]
        mdevs = snapshot.mdev.devices if snapshot.mdev else ()
        going = [*functions, *(mdev.uuid for mdev in mdevs if mdev.parent in functions)]
        yield from use_refusals(usage, going, allow, with_=subject)
    elif is_vfio_driver(change.want.driver or "") and change.changes_driver:
        uses = [use for use in usage.of([subject]) if use.kind == "framebuffer"]
        yield from _refusals(uses, allow, subject)


def use_refusals(
    usage: Usage, subjects: Iterable[str], allow: frozenset[str], *, with_: str | None = None
) -> Iterator[Refusal]:
    """One refusal for each device and kind of use.

    Args:
        usage: who uses what.
        subjects: the devices that would be taken away.
        allow: the words that permit.
        with_: the device that the others go with, if they do.
    """
    yield from _refusals(usage.of(subjects), allow, with_)


def _refusals(uses: Iterable[Use], allow: frozenset[str], with_: str | None) -> Iterator[Refusal]:
    kinds: dict[tuple[str, UseKind], list[Use]] = {}
    for use in uses:
        rule = _RULES.get(use.kind)
        if rule is not None and rule.word not in allow:
            kinds.setdefault((use.subject, use.kind), []).append(use)
    for (subject, kind), found in kinds.items():
        going = "" if with_ in (None, subject) else f" goes with {with_} and"
        details = listed([str(use) for use in found])
        yield Refusal(
            CODE,
            subject,
            f"{subject}{going} is in use: {details}.",
            _remedy(_RULES[kind], found),
            kind=kind,
            detail=details,
            via=found[0].via,
        )


def _remedy(rule: _Rule, uses: Sequence[Use]) -> str:
    processes = {use.process.pid: use.process for use in uses if use.process is not None}
    if processes:
        todo = listed(list(dict.fromkeys(stops(process) for process in processes.values())))
        todo = f"{rule.remedy}: {todo}" if rule.remedy else f"End what uses it: {todo}"
    else:
        todo = rule.remedy.format(via=uses[0].via)
    if rule.word is None:
        return todo if todo.endswith(".") else f"{todo}."
    return f"{todo}, or permit it with --allow {rule.word}."


def stops(process: Process) -> str:
    """What stops a process, as a phrase for people: its service, its container, or itself."""
    if process.container is not None:
        return f"stop container {process.container[:12]}"
    unit = process.unit or ""
    if unit.endswith(".service") and not unit.startswith("user@"):
        whose = f"--user -M {process.manager}@ " if process.manager is not None else ""
        return f"`systemctl {whose}stop {unit.removesuffix('.service')}`"
    if process.name in _SERVICES:
        return f"`systemctl stop {_SERVICES[process.name]}`"
    return f"end pid {process.pid}"
