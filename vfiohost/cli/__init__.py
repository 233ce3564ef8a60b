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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; ``None`` takes those of the process.

    Returns:
        The exit code; see ``docs/errors.md``.
    """
    import gc

    from vfiohost.cli.running import run

    if argv is not None:
        return run(argv)
    # A process of our own is over before a search for cycles could pay: it takes a tenth of the
    # time of `vfiohost list`. `watch`, which goes on, turns it on again.
    gc.disable()
    try:
        return run(None)
    finally:
        gc.freeze()  # nor is there one at the end
