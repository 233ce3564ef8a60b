"""``vfiohost doctor`` on recorded hosts, as text and as JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.face.support import HOSTS, check_golden
from vfiohost.doctor import CODES

if TYPE_CHECKING:
    from tests.face.support import Maker, Runner

DOCS = Path(__file__).parents[2] / "docs"

GOLDEN_RUNS = [
    ("doctor-no-iommu", "no-iommu", "doctor", 11),
    ("doctor-rtx", "rtx-workstation", "doctor --all", 0),
    ("doctor-vgpu", "a10-pair-vgpu", "doctor 10de:2236:0", 0),
    ("doctor-l40s", "l40s-vgpu", "doctor", 0),
    ("doctor-gh200", "gh200", "doctor --all", 0),
    ("doctor-vmd", "vmd-domain", "doctor class:nvme -q", 0),
    ("doctor-minimal", "minimal-no-uevent", "doctor --all", 0),
    ("doctor-not-there", "a10-pair", "doctor 65:00.1", 3),
]


@pytest.mark.parametrize(
    ("name", "host", "line", "code"), GOLDEN_RUNS, ids=[r[0] for r in GOLDEN_RUNS]
)
def test_what_is_printed(
    name: str, host: str, line: str, code: int, *, run: Runner, recorded: Maker
) -> None:
    root = recorded(host)
    ran = run(*line.split(), root=root)
    assert ran.code == code
    check_golden(name, ran, root)
    json = run(*line.split(), "--json", root=root)
    assert json.value["exit_code"] == code
    assert json.err == ""


@pytest.mark.parametrize("path", sorted(HOSTS.glob("*.host")), ids=lambda p: p.stem)
def test_every_fixture_is_examined(path: Path, run: Runner, recorded: Maker) -> None:
    root = recorded(path.stem)
    findings = run("doctor", "--json", root=root).value["findings"]
    codes = [f["code"] for f in findings]
    assert set(codes) <= set(CODES)
    has_groups = any(run("groups", "--json", root=root).value["groups"])
    assert bool({"iommu-on", "outside-iommu"} & set(codes)) == has_groups


def test_text_hides_what_is_in_order_and_json_does_not(run: Runner, recorded: Maker) -> None:
    root = recorded("a10-pair")
    assert "[iommu-on]" not in run("doctor", root=root).out
    assert "[iommu-on]" in run("doctor", "--all", root=root).out
    findings = run("doctor", "--json", root=root).value["findings"]
    assert "iommu-on" in [f["code"] for f in findings]


def test_the_vgpu_framework_is_named(run: Runner, recorded: Maker) -> None:
    findings = run("doctor", "--json", root=recorded("a10-pair-vgpu")).value["findings"]
    (framework,) = (f for f in findings if f["code"].startswith("vgpu-"))
    assert framework["code"] == "vgpu-mdev"
    assert framework["evidence"][0]["path"] == "sys/class/mdev_bus"


def test_only_the_devices_that_are_named(run: Runner, recorded: Maker) -> None:
    findings = run("doctor", "ca:00.0", "--json", root=recorded("a10-pair")).value["findings"]
    addresses = {f["subject"] for f in findings if re.match(r"\d{4}:", f["subject"])}
    assert addresses == {"0000:ca:00.0"}


def test_advice_stays_below_the_root_and_on_one_line(run: Runner, recorded: Maker) -> None:
    root = recorded("rtx-workstation")
    out = run("doctor", root=root).out
    assert f"`vfiohost --root {root} bind 0000:01:00.0 --group`" in out
    assert "`vfiohost bind" not in out


def test_what_vfiohost_leaves_is_found(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", root=root).code == 0
    (journal,) = (root / "var/lib/vfiohost/journal").iterdir()
    assert "[journal-clean]" in run("doctor", "--all", root=root).out
    whole = journal.read_text().splitlines(keepends=True)
    assert '"end"' in whole[-1]
    journal.write_text("".join(whole[:-1]))
    cut_off = run("doctor", root=root)
    assert cut_off.code == 11
    assert "[journal-open]" in cut_off.out
    assert run("recover", root=root).code == 0
    assert "[journal-open]" not in run("doctor", root=root).out


def test_a_device_on_vfio_without_an_override_is_noticed(run: Runner, simulated: Maker) -> None:
    root = simulated("a10-pair-nouveau")
    assert run("bind", "65:00.0", "--once", root=root).code == 0
    assert "0000:65:00.0 [stray-vfio]" in run("doctor", root=root).out
    assert run("bind", "65:00.0", root=root).code == 0
    assert "[stray-vfio]" not in run("doctor", root=root).out


def test_the_table_of_codes_is_that_of_the_code() -> None:
    table = (DOCS / "doctor.md").read_text().partition("| code |")[2]
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.*) \|$", table, re.MULTILINE)
    assert rows == list(CODES.items())
