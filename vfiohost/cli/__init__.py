"""The command ``vfiohost``: arguments, exit codes, printing. No rule of the domain is in here.

``parser`` reads the command line into ``options``; ``running`` runs a verb and makes an exit code
of what comes of it, ``failing`` of what goes wrong; ``session`` opens the host, ``output`` prints,
``signals`` catches Ctrl-C. ``reading``, ``showing``, ``watching``, ``changing``, ``mediated``
(mdev), ``using`` (probe, reset), ``declaring`` (the host file) and ``simulating`` are the verbs,
``carrying`` is what those that change something have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; ``None`` takes those of the process.

    Returns:
        The exit code; see ``docs/errors.md``.
    """
    from vfiohost.cli.running import run

    return run(argv)


def command() -> NoReturn:
    """Run the command as the process that this is, and end it with the exit code.

    A tenth of the time of ``vfiohost list`` was spent on a search for cycles, which does not pay
    before it is over (``watch``, which goes on, turns that on again). Nor does taking every object
    apart at the end: by then all output is written and every file is closed.
    """
    import gc
    import os

    gc.disable()
    os._exit(main())
