"""Fuzz everything that reads what others wrote: ``python -m tests.fuzz --seconds 60``."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from tests.fuzz import corpus, mutation, programs, readers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fuzz.mutation import Found

ALL: tuple[programs.Program | readers.Reader, ...] = (*programs.ALL, *readers.ALL)
DOCUMENT = Path(__file__).parents[2] / "docs" / "fuzzing.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


def main() -> int:
    """Fuzz; the exit code is 1 when something was found."""
    options = parse(sys.argv[1:])
    os.nice(19)
    chosen = [t for t in ALL if not options.targets or t.name in options.targets]
    parts = sum(target.share for target in chosen)
    results: list[tuple[str, str, Found]] = []
    for target in chosen:
        inputs = corpus.load(target.name)
        seconds = options.seconds * target.share / parts
        if isinstance(target, programs.Program):
            found = programs.fuzz(target, inputs, seconds, options.seed)
        else:
            found = mutation.fuzz(target, inputs, seconds, random.Random(options.seed))
        say(line(target.name, target.what, found))
        for data, said in found.crashes:
            kept = Path(tempfile.gettempdir()) / f"vfiohost-fuzz-{target.name}-{crc32(data):08x}"
            kept.write_bytes(data)
            say(f"CRASH {target.name}: {said!a}\n  {data[:200]!a}\n  all of it: {kept}")
        if options.keep:
            corpus.save(target.name, found.corpus)
        results.append((target.name, target.what, found))
    if options.write:
        write(results)
    return 1 if any(found.crashes for _, _, found in results) else 0


def say(text: str) -> None:
    """Say what has come out, as soon as it has."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    names = [target.name for target in ALL]
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1, help="another one gives other inputs")
    parser.add_argument("--keep", action="store_true", help="keep what is new in the corpus")
    parser.add_argument("--write", action="store_true", help="write the figures to the document")
    options = parser.parse_args(argv)
    for name in options.targets:
        if name not in names:
            parser.error(f"there is no target {name!r}")
    return options


def line(name: str, what: str, found: Found) -> str:
    """One line of the table."""
    of = f"of {found.edges} edges" if found.edges else "answers"
    size = sum(map(len, found.corpus))
    return (
        f"| `{name}` | {what} | {found.executions:,} | {found.executions / found.seconds:,.0f} "
        f"| {found.covered} {of} | {len(found.corpus)} ({size:,} bytes) | {len(found.crashes)} |"
    )


def write(results: list[tuple[str, str, Found]]) -> None:
    """Put the figures into the document, in the place of the old ones."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    executions = sum(found.executions for _, _, found in results)
    seconds = sum(found.seconds for _, _, found in results)
    crashes = sum(len(found.crashes) for _, _, found in results)
    when = f"in {seconds:,.0f} s on {datetime.now(UTC).date()}"
    rows = [
        f"{executions:,} executions {when}, {crashes} crashes.",
        "",
        "| Target | What is fuzzed | Executions | per s | Reached | Corpus | Crashes |",
        "|---|---|--:|--:|--:|--:|--:|",
        *(line(*result) for result in results),
        "",
    ]
    DOCUMENT.write_text(before + BEGIN + "\n".join(rows) + END + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
