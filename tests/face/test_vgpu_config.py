"""``vfiohost vgpu apply``, ``vgpu assert`` and ``vgpu config``: the vGPUs of a host in one file."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.face.support import check_golden
from vfiohost.testing import SimulatedKernel

if TYPE_CHECKING:
    from tests.face.support import Maker, Runner

HEAD = "version: v1\nvgpu-configs:\n"
A10 = f"""\
{HEAD}  half: [{{devices: all, vgpu-devices: {{A10-12Q: 2}}}}]
  over: [{{devices: all, vgpu-devices: {{A10-8Q: 4}}}}]
  first: [{{devices: [0], vgpu-devices: {{A10-8Q: 3}}}}]
  none: [{{devices: all, vgpu-devices: {{}}}}]
  never: [{{device-filter: MODEL, devices: all, vgpu-devices: {{A10-8Q: 3}}}}]
  mig: [{{devices: all, vgpu-devices: {{A100-1-5C: 2}}}}]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = Path("gpus.yaml")
    file.write_text(A10)
    return file


@pytest.fixture
def default(run: Runner, tmp_path: Path) -> Path:
    ran = run("vgpu", "config", "default")
    assert ran.code == 0
    file = tmp_path / "default.yaml"
    file.write_text(ran.out)
    return file


def types(run: Runner, root: Path) -> dict[str, int]:
    found = run("vgpu", "list", "--json", root=root).value["vgpus"]
    return dict(Counter(str(each["type_name"]) for each in found))


def stores(root: Path) -> list[str]:
    return [answer.path for answer in SimulatedKernel(root).answers if answer.verb == "store"]


@pytest.mark.parametrize(
    ("host", "name", "found"),
    [
        ("a10-pair-vgpu", "default", {"NVIDIA A10-12Q": 4}),
        ("a10-pair-vgpu", "A10-4Q", {"NVIDIA A10-4Q": 12}),
        ("a10-pair-vgpu", "A10-8Q", {"NVIDIA A10-8Q": 6}),
        ("t4-v100-vgpu", "default", {"GRID T4-8Q": 2, "GRID V100-8Q": 2}),
        ("l40s-vgpu", "default", {"NVIDIA L40S-24Q": 2}),
    ],
)
def test_the_default_configurations_fill_the_gpus(
    run: Runner, simulated: Maker, default: Path, *, host: str, name: str, found: dict[str, int]
) -> None:
    root = simulated(host)
    asked = ("-f", str(default), "-c", name)
    assert run("vgpu", "assert", *asked, root=root).code == 10
    assert run("vgpu", "apply", *asked, root=root).code == 0
    assert types(run, root) == found
    before = stores(root)
    again = run("vgpu", "apply", *asked, root=root)
    assert again.out == "nothing to do: the host is so already\n"
    assert stores(root) == before
    assert run("vgpu", "assert", *asked, root=root).code == 0


@pytest.mark.parametrize("name", ["half", "over", "first", "never", "mig"])
@pytest.mark.parametrize("verb", ["apply", "assert"])
def test_output(run: Runner, simulated: Maker, file: Path, verb: str, name: str) -> None:
    root = simulated("a10-pair-vgpu")
    ran = run("vgpu", verb, "-f", str(file), "-c", name, "--json", root=root)
    assert ran.value["vgpu_config"]["name"] == name
    root = simulated("a10-pair-vgpu")
    ran = run("vgpu", verb, "-f", str(file), "-c", name, root=root)
    check_golden(f"vgpu-config-{verb}-{name}", ran, root)


def test_what_does_not_fit_is_refused_and_nothing_is_changed(
    run: Runner, simulated: Maker, file: Path
) -> None:
    root = simulated("a10-pair-vgpu")
    assert run("vgpu", "apply", "-f", str(file), "-c", "half", root=root).code == 0
    before = stores(root)
    assert run("vgpu", "apply", "-f", str(file), "-c", "over", root=root).code == 4
    assert stores(root) == before
    assert types(run, root) == {"NVIDIA A10-12Q": 4}
    assert run("vgpu", "apply", "-f", str(file), "-c", "none", root=root).code == 0
    assert types(run, root) == {}


def test_virtual_functions_come_first_and_go_when_the_vgpus_fail(
    run: Runner, simulated: Maker, file: Path
) -> None:
    root = simulated("a10-pair-vgpu")
    assert run("vf", "clear", "65:00.0", root=root).code == 0
    shown = run("vgpu", "apply", "-n", "-f", str(file), "-c", "half", root=root)
    assert "then set the vGPUs of 2 GPUs, planned when the above is done" in shown.out
    # The types are known when the functions are there, and then too many are wanted.
    assert run("vgpu", "apply", "-f", str(file), "-c", "over", root=root).code == 4
    assert not (root / "sys/bus/pci/devices/0000:65:00.4").exists()
    assert run("vgpu", "apply", "-f", str(file), "-c", "half", root=root).code == 0
    assert types(run, root) == {"NVIDIA A10-12Q": 4}


def test_the_file_may_be_standard_input(
    run: Runner, simulated: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = simulated("a10-pair-vgpu")
    monkeypatch.setattr("sys.stdin", io.StringIO(A10))
    assert run("vgpu", "apply", "-f", "-", "-c", "first", root=root).code == 0
    assert types(run, root) == {"NVIDIA A10-8Q": 3}
    monkeypatch.setattr("sys.stdin", io.StringIO("version: v1\nbogus: 1\n"))
    ran = run("vgpu", "apply", "-f", "-", root=root)
    assert (ran.code, "standard input, line 2" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("entry", "code", "said"),
    [
        ("{devices: all, vgpu-devices: {A10-9Q: 1}}", 3, "offers no vGPU type 'A10-9Q'"),
        ("{devices: [0], vgpu-devices: {A10-4QQ: 1}}", 2, "the name of a vGPU type"),
        ("{devices: [5], vgpu-devices: {A10-4Q: 1}}", 0, "says nothing of GPU 0000:65:00.0"),
        ("{devices: all, vgpu-devices: {A10-4Q: 7}}", 4, "[no-room]"),
        ("{devices: all, vgpu-devices: {A10-4Q: 1, A100-1-5C: 1}}", 2, "MIG-backed"),
    ],
)
def test_what_cannot_be_is_said_before_anything_goes(
    run: Runner, simulated: Maker, file: Path, *, entry: str, code: int, said: str
) -> None:
    root = simulated("a10-pair-vgpu")
    assert run("vgpu", "apply", "-f", str(file), "-c", "first", root=root).code == 0
    before = stores(root)
    file.write_text(f"{HEAD}  a: [{entry}]\n")
    ran = run("vgpu", "apply", "-f", str(file), root=root)
    assert (ran.code, said in ran.err) == (code, True), ran.err
    assert stores(root) == before


def test_a_file_is_checked_alone(run: Runner, simulated: Maker, file: Path) -> None:
    root = simulated("a10-pair-vgpu")
    asked = ("vgpu", "assert", "--valid-config", "-f", str(file))
    assert run(*asked, "-c", "half", root=root).out == f"{file}: half is valid\n"
    assert run(*asked, root=root).code == 2
    assert run(*asked, "-c", "hal", root=root).code == 3
    file.write_text(f"{HEAD}  a: [{{devices: all}}]\n")
    ran = run(*asked, root=root)
    assert (ran.code, ran.err) == (
        2,
        f"vfiohost: {file}, line 3, column 7: 'This mapping' is not an entry with vgpu-devices.\n",
    )


def test_without_pyyaml_a_sentence_says_how_to_get_it(simulated: Maker, file: Path) -> None:
    code = "import sys; sys.modules['yaml'] = None; from vfiohost.cli import main; sys.exit(main())"
    words = ["--root", str(simulated("a10-pair-vgpu")), "vgpu", "apply", "-f", str(file)]
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 9
    assert "pip install 'vfiohost[yaml]'" in ran.stderr


def test_the_default_is_yaml(run: Runner) -> None:
    ran = run("vgpu", "config", "default", "--json")
    data = yaml.safe_load(ran.value["vgpu_config"]["text"])
    assert data["vgpu-configs"]["A10-4Q"] == [{"devices": "all", "vgpu-devices": {"A10-4Q": 6}}]
