"""The examples of docs/library.md, in one namespace, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from vfiohost import testing

if TYPE_CHECKING:
    import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "library.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_examples_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    testing.create(testing.load("a10-pair-nouveau"), "host")
    testing.create(testing.load("a10-pair-vgpu"), "vgpu")
    text = DOCUMENT.read_text()
    namespace: dict[str, object] = {}
    examples = list(EXAMPLE.finditer(text))
    assert len(examples) == text.count("```python")
    for example in examples:
        # Blank lines before it, so that a traceback names the line of the document.
        above = "\n" * (text[: example.start()].count("\n") + 1)
        exec(compile(above + example[1], str(DOCUMENT), "exec"), namespace)
