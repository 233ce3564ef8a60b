"""What becomes of a journal after a crash: damaged, edited, or found by another boot."""

from __future__ import annotations

import json
import os
from pathlib import Path

JOURNALS = "var/lib/vfiohost/journal"


def journals(root: str) -> dict[str, str]:
    """The texts of all journals, by name."""
    folder = Path(root) / JOURNALS
    if not folder.is_dir():
        return {}
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def put_back(root: str, texts: dict[str, str]) -> None:
    """Write journals as they were."""
    folder = Path(root) / JOURNALS
    for name, text in texts.items():
        _write(folder / name, text)


def tamper(root: str, kind: str) -> bool:
    """Do something to the newest journal.

    Returns:
        Whether there was one, and it had what it takes.
    """
    found = journals(root)
    if not found:
        return False
    name = max(found)
    lines = found[name].splitlines(keepends=True)
    changed = {
        "torn": _torn,
        "line replaced": _replaced,
        "line removed": _headless,
        "step elsewhere": _elsewhere,
        "another boot": _another_boot,
    }[kind](lines)
    if changed is None:
        return False
    _write(Path(root) / JOURNALS / name, "".join(changed))
    return True


def _torn(lines: list[str]) -> list[str] | None:
    """The beginning of one more line."""
    return [*lines, '{"event": "done", "ti']


def _replaced(lines: list[str]) -> list[str] | None:
    if len(lines) < 2:
        return None
    return [lines[0], '{"event": "nonsense"}\n', *lines[2:]]


def _headless(lines: list[str]) -> list[str] | None:
    return lines[1:] or ["\n"]


def _elsewhere(lines: list[str]) -> list[str] | None:
    """The undo of a step leads to a file that is none of sysfs."""
    header = json.loads(lines[0])
    for step in header["plan"]["steps"]:
        if step.get("undo"):
            step["undo"]["path"] = "etc/passwd"
            return [json.dumps(header) + "\n", *lines[1:]]
    return None


def _another_boot(lines: list[str]) -> list[str] | None:
    header = json.loads(lines[0])
    header["boot_id"] = "00000000-0000-4000-8000-000000000000"
    return [json.dumps(header) + "\n", *lines[1:]]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.chmod(path, 0o600)
