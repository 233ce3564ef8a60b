"""The command as an ordinary user runs it."""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import sys
import tempfile
from functools import cache
from typing import TYPE_CHECKING

import vfiohost
from tests.face.support import Ran
from vfiohost import cli

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534


@cache
def _load_everything() -> None:
    """Import what verbs import when they run: nobody may not be allowed to read the interpreter."""
    for module in pkgutil.walk_packages(vfiohost.__path__, "vfiohost."):
        if not module.name.endswith(("__main__", "pytest_plugin")):
            importlib.import_module(module.name)
    for name in ("uuid", "difflib", "traceback", "_strptime", "pyudev", "encodings.idna"):
        importlib.import_module(name)


def as_nobody(*argv: str) -> Ran:
    """Run the command in a child that has given up root for good, with all its capabilities.

    Where the tests are run by an ordinary user, they are run by one anyway.
    """
    _load_everything()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _run(argv, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return Ran(os.waitstatus_to_exitcode(status), *texts)


def _run(argv: tuple[str, ...], out: int, err: int) -> None:
    code = 99
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), write_through=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), write_through=True)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        code = cli.main(argv)
    finally:
        os._exit(code)


def readable_by_all(path: Path, scratch: Path) -> Path:
    """Let everybody reach a folder below ``scratch``: tempfile makes its own for their owner."""
    for folder in (path, *path.parents):
        folder.chmod(folder.stat().st_mode | 0o055)
        if folder == scratch:
            break
    return path
