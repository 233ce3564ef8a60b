"""What the tests of documents share: the blocks of a Markdown file, and how they are run.

A block says in a comment before it what it is: ``<!-- run: NAME -->`` is run, ``<!-- output: NAME
-->`` is what the run of that name prints, ``<!-- file: NAME -->`` is a file of that name that the
reader makes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"(?:<!-- (run|output|file): ([\w.]+) -->\n)?```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
_RANDOM = {
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "UUID",
    r"\b\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}, pid \d+": "JOURNAL, pid PID",
    r"\b\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\b": "JOURNAL",
    r"\b(after|in) \d+(\.\d+)? ?s\b": "SECONDS",
}


@attrs.frozen
class Block:
    """A fenced block.

    Attributes:
        kind: ``run``, ``output``, ``file``, or nothing where no comment stands before it.
        name: its name, or nothing.
        language: the word behind the fence.
        text: what is in it.
        line: that of the document in which ``text`` begins, from 1.
    """

    kind: str
    name: str
    language: str
    text: str
    line: int


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a document, in their order; its path is relative to the top folder."""
    whole = (ROOT / document).read_text()
    found = []
    for match in _BLOCK.finditer(whole):
        kind, name, language, text = match.groups(default="")
        found.append(Block(kind, name, language, text, whole.count("\n", 0, match.start(4)) + 1))
    assert len(found) * 2 == len(re.findall(r"^```", whole, re.MULTILINE)), document
    return found


def by_name(document: str) -> dict[tuple[str, str], str]:
    """The texts of a document's blocks by kind and name."""
    return {(block.kind, block.name): block.text for block in blocks(document)}


def shell(script: str, directory: Path, **environment: str) -> str:
    """What a script prints on both streams, with the tested ``vfiohost`` on its PATH."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("VFIOHOST_", "PYTEST_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env=clean | {"PATH": path, "TMPDIR": str(directory)} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def masked(text: str) -> list[str]:
    """The lines, with what differs from run to run made equal."""
    for pattern, word in _RANDOM.items():
        text = re.sub(pattern, word, text)
    return text.splitlines()
