"""Every block of README.md does what the text around it says.

``.ci/run`` and ``chroot.sh`` paste the blocks ``try``, ``test`` and ``lab`` whole; here ``try``
runs without its first line, which installs.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import vfiohost
from tests.package.documents import ROOT, by_name, masked, shell

README = by_name("README.md")


def assert_in_order(expected: list[str], lines: list[str]) -> None:
    """Each expected line is one of the lines, and they come in this order."""
    rest = iter(lines)
    for line in expected:
        assert line in rest, f"{line!r} is missing, or out of order, in:\n" + "\n".join(lines)


def test_every_block_is_run_somewhere() -> None:
    run = {"try", "test", "lab", "live", "library", "plugin"}
    assert set(README) == {("run", name) for name in run} | {("output", "try")}


def test_what_one_can_try_prints_what_the_text_shows(tmp_path: Path) -> None:
    install, _, demonstration = README["run", "try"].partition("\n\n")
    assert install.endswith("pip install .")
    assert "\n" not in install
    printed = shell(demonstration, tmp_path)
    assert_in_order(masked(README["output", "try"]), masked(printed))


def test_the_lines_for_a_live_host_work(tmp_path: Path) -> None:
    shell("vfiohost sim a10-pair-nouveau host", tmp_path)
    script = 'sudo() { "$@"; }\n' + README["run", "live"]
    printed = shell(script, tmp_path, VFIOHOST_ROOT="host")
    assert "nouveau -> vfio-pci" in printed
    listed = shell("vfiohost --root host list 10de:2236 -o driver", tmp_path)
    assert listed.split()[1:] == ["nouveau", "nouveau"]


def test_the_library_block_binds(tmp_path: Path) -> None:
    shell("vfiohost sim a10-pair-nouveau host", tmp_path)
    (tmp_path / "block.py").write_text(README["run", "library"])
    printed = shell("python -P block.py", tmp_path).splitlines()
    assert printed[0] == "0000:65:00.0 nouveau 15"
    assert printed[-1].startswith("4 [")
    assert "vfio-pci" in shell("vfiohost --root host list 65:00.0", tmp_path)


def test_the_plugin_block_is_a_test_that_passes(tmp_path: Path) -> None:
    (tmp_path / "test_block.py").write_text(README["run", "plugin"])
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # else one further up may count
    printed = shell("python -P -m pytest -p no:cacheprovider -q", tmp_path)
    assert "1 passed" in printed


def test_links_lead_somewhere() -> None:
    # The package may be elsewhere: installed from a wheel.
    package = Path(vfiohost.__file__).parent
    found = set()
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("fixtures/*/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            target = os.path.relpath(document.parent / link, ROOT)
            place = package.parent if target.startswith("vfiohost/") else ROOT
            assert (place / target).exists(), f"{document.name} leads to {link}"
            found.add(target)
    assert {"docs/cli.md", "docs/library.md", "vfiohost/schema.json"} <= found
