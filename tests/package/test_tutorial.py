"""docs/tutorial.md, pasted into one shell from top to bottom, prints what it says.

``VFIOHOST_UPDATE_GOLDEN=1`` writes what is printed into the document: then look at it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.package.documents import ROOT, blocks, by_name, masked, shell
from vfiohost import testing

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENT = "docs/tutorial.md"
BLOCKS = by_name(DOCUMENT)
RUNS = [name for kind, name in BLOCKS if kind == "run"]
MARK = "=== block "
PCI_IDS = "usr/share/misc/pci.ids"


def run(directory: Path) -> dict[str, str]:
    """What each block prints, by its name."""
    for (kind, name), text in BLOCKS.items():
        if kind == "file":
            (directory / name).write_text(text)
    (directory / "pytest.ini").write_text("[pytest]\n")  # else one further up may count
    # Refusals are part of it, so no failure ends the shell.
    script = "set +eu\n" + "".join(f"echo '{MARK}{name}'\n{BLOCKS['run', name]}" for name in RUNS)
    parts = re.split(rf"^{MARK}(\w+)\n", shell(script, directory), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_block_is_run_made_or_printed() -> None:
    found = blocks(DOCUMENT)
    assert len(BLOCKS) == len(found)
    languages = {"run": "sh", "output": "text", "file": "python"}
    for block in found:
        assert block.language == languages.get(block.kind), f"line {block.line}"
    assert [name for kind, name in BLOCKS if kind == "output"] == RUNS


@pytest.mark.parametrize("document", [DOCUMENT, "README.md"])
def test_names_are_the_hosts_own_and_not_those_of_this_machine(document: str) -> None:
    """What a document shows must not depend on the ``pci.ids`` of who runs it."""
    names = set(
        re.findall(r"^ *vfiohost sim ([\w-]+) ", (ROOT / document).read_text(), re.MULTILINE)
    )
    assert names
    for name in names:
        assert PCI_IDS in {file.path for file in testing.load(name).files}, name


def test_the_blocks_print_what_the_text_shows(tmp_path: Path) -> None:
    printed = run(tmp_path)
    if os.environ.get("VFIOHOST_UPDATE_GOLDEN"):
        path = ROOT / DOCUMENT
        text = path.read_text()
        for name in RUNS:
            head = f"<!-- output: {name} -->\n```text\n"
            text = text.replace(head + BLOCKS["output", name], head + printed[name])
        path.write_text(text)
    assert list(printed) == RUNS
    for name in RUNS:
        assert masked(printed[name]) == masked(BLOCKS["output", name]), name
