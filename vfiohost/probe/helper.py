"""The helper process of a probe: started, waited for, and given up when its time is over.

To open, reset and close a device takes its lock and may wait for ever. A process that has a VFIO
device open while it waits must not be the caller's. It is a new Python, and no fork of this one:
what a probe does is more than a fork of a process with threads may do (``signal-safety(7)``).
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import attrs

from vfiohost.errors import KernelError, UnsupportedError

if TYPE_CHECKING:
    from vfiohost.probe.steps import Request

_CODE = "from vfiohost.probe.steps import main; main()"

# Helpers that were killed and had not ended yet, so that they get collected.
_left: list[subprocess.Popen[bytes]] = []


@attrs.frozen
class Told:
    """What a helper said.

    Attributes:
        lines: see :mod:`vfiohost.probe.steps`.
        pid: the helper, if it had not ended in time. It was sent SIGKILL, which reaches it when the
            kernel comes back.
    """

    lines: tuple[dict[str, Any], ...]
    pid: int | None


def ask(request: Request, *, timeout: float) -> Told:
    """Let a helper probe.

    Args:
        request: what it is to do.
        timeout: seconds to wait for it.

    Raises:
        UnsupportedError: there is no Python to start.
        KernelError: it did not start (``op`` is ``open``), or somebody killed it (EINTR).
    """
    process = _start(request)
    _left.append(process)
    try:
        out, _ = process.communicate(timeout=timeout)
        pid = None
    except subprocess.TimeoutExpired as late:
        out, pid = late.output or b"", process.pid
        process.kill()
    except BaseException:
        process.kill()
        raise
    finally:
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        _left[:] = [p for p in _left if p.poll() is None]
    # A line that is not whole was being written when time was up.
    lines = tuple(json.loads(line) for line in out.split(b"\n")[:-1])
    if pid is None and process.returncode < 0:
        raise KernelError("ioctl", errno.EINTR, f"helper process {process.pid}")
    if pid is None and process.returncode > 0:
        raise RuntimeError(f"the probe's helper ended with {process.returncode}")
    return Told(lines, pid)


def _start(request: Request) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise UnsupportedError("A probe needs a Python of its own, and this one has no executable.")
    try:
        # -P: what lies in the working directory is not imported, least of all by root.
        return subprocess.Popen(  # noqa: S603 - no shell, and our own interpreter
            [sys.executable, "-P", "-c", _CODE, json.dumps(attrs.asdict(request))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path))},
            start_new_session=True,
        )
    except OSError as error:
        raise KernelError("open", error.errno or 0, sys.executable) from error
