"""The pages of docs/ are complete: each is listed, and docs/api.md has every public name."""

from __future__ import annotations

import re

import vfiohost
from tests.package.documents import ROOT
from vfiohost import testing

DOCS = ROOT / "docs"


def test_the_list_of_pages_has_each() -> None:
    listed = set(re.findall(r"\]\(([\w.-]+)\)", (DOCS / "README.md").read_text()))
    pages = {path.name for path in [*DOCS.glob("*.md"), *DOCS.glob("*.1")]}
    assert listed == pages - {"README.md", "index.md"}


def test_the_reference_has_every_public_name() -> None:
    directives = re.findall(
        r"^\.\. auto(\w+):: (\S+)$", (DOCS / "api.md").read_text(), re.MULTILINE
    )
    expected = {f"vfiohost.{name}" for name in vfiohost.__all__ if name != "__version__"}
    expected |= {f"vfiohost.testing.{name}" for name in testing.__all__}
    assert sorted(name for _, name in directives) == sorted(expected)
    for kind, name in directives:
        package = testing if name.startswith("vfiohost.testing.") else vfiohost
        value = getattr(package, name.rpartition(".")[2])
        if not isinstance(value, type):
            assert kind == "function", name
        else:
            assert kind == ("exception" if issubclass(value, Exception) else "class"), name
