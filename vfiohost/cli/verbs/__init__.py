"""The verbs of the command line, one entry each, in the order of the help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.cli.verbs import (
    booting,
    changing,
    declared,
    driverctl,
    functions,
    looking,
    mediated,
    vgpus,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.cli.verbs.verb import Verb

FAMILIES: Mapping[str, str] = {
    "vf": "List, make and remove virtual functions (SR-IOV).",
    "mdev": "List, create and remove mediated devices; define and start them as mdevctl does.",
    "vgpu": "List, create and remove vGPUs, whichever way a GPU makes them.",
    "boot": "Give devices to drivers from the start of the host on.",
    "driverctl": "List, write and take over what driverctl keeps for the boot.",
}
"""Verbs that have verbs of their own, and what these do."""

VERBS: Mapping[str, Verb] = {
    verb.name: verb
    for verb in (
        looking.LIST,
        looking.GROUPS,
        looking.SHOW,
        looking.TREE,
        looking.HOLDERS,
        looking.WATCH,
        changing.BIND,
        changing.UNBIND,
        changing.RESTORE,
        changing.RECOVER,
        changing.UNDO,
        declared.MODE,
        declared.VALIDATE,
        declared.PLAN,
        declared.APPLY,
        declared.DIFF,
        declared.EXPORT,
        looking.DOCTOR,
        changing.PROBE,
        changing.RESET,
        looking.PRINT,
        looking.RESOURCES,
        looking.RECORD,
        changing.SIM,
        looking.COMPLETION,
        functions.LIST,
        functions.SET,
        functions.CLEAR,
        mediated.TYPES,
        mediated.LIST,
        mediated.CREATE,
        mediated.START,
        mediated.REMOVE,
        mediated.DEFINE,
        mediated.MODIFY,
        mediated.UNDEFINE,
        vgpus.TYPES,
        vgpus.LIST,
        vgpus.CAPACITY,
        vgpus.CREATE,
        vgpus.REMOVE,
        vgpus.APPLY,
        vgpus.ASSERT,
        vgpus.CONFIG,
        booting.INSTALL,
        booting.STATUS,
        booting.REMOVE,
        driverctl.LIST,
        driverctl.EXPORT,
        driverctl.IMPORT,
        driverctl.REMOVE,
    )
}
"""All verbs, by name."""
