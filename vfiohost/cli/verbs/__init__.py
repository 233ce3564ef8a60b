"""The verbs of the command line, one entry each, in the order of the help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.cli.verbs import booting, changing, declared, functions, looking, mediated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.cli.verbs.verb import Verb

FAMILIES: Mapping[str, str] = {
    "vf": "List, make and remove virtual functions (SR-IOV).",
    "mdev": "List, create and remove mediated devices.",
    "boot": "Give devices to drivers from the start of the host on.",
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
        mediated.REMOVE,
        booting.INSTALL,
        booting.STATUS,
        booting.REMOVE,
    )
}
"""All verbs, by name."""
