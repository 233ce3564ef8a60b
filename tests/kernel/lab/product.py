"""vfiohost itself, called in the guest.

In the process of a worker: to start Python takes two seconds there.
"""

from __future__ import annotations

import contextlib
import io
import time

from vfiohost import recording
from vfiohost.cli import main
from vfiohost.record import capture
from vfiohost.sysfs import Sysfs


def vfiohost(*arguments: str) -> dict[str, int | str | float]:
    """Run the command and return its ``status``, ``stdout``, ``stderr`` and ``seconds``."""
    started = time.monotonic()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as end:  # argparse
            status = end.code if isinstance(end.code, int) else 1
    return {
        "status": status,
        "stdout": out.getvalue(),
        "stderr": err.getvalue(),
        "seconds": time.monotonic() - started,
    }


def record(title: str) -> str:
    """Record this machine, as text."""
    with Sysfs("/") as sysfs:
        return recording.format(capture(sysfs, title=title, source="the kernel lab"))
