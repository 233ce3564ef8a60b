"""The examples of docs/library.md, in one namespace, from top to bottom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.package.documents import ROOT, blocks
from vfiohost import testing

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DOCUMENT = "docs/library.md"


def test_the_examples_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    testing.create(testing.load("a10-pair-nouveau"), "host")
    testing.create(testing.load("a10-pair-vgpu"), "vgpu")
    namespace: dict[str, object] = {}
    examples = blocks(DOCUMENT)
    assert examples
    assert {example.language for example in examples} == {"python"}
    for example in examples:
        # Blank lines before it, so that a traceback names the line of the document.
        above = "\n" * (example.line - 1)
        exec(compile(above + example.text, str(ROOT / DOCUMENT), "exec"), namespace)
