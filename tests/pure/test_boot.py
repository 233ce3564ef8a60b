"""The texts for the boot: what they say, that they can be read again, that no name breaks out."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import address, device
from vfiohost.boot import (
    GENERATORS,
    UNIT_PATH,
    BootDevice,
    boot_device,
    parse_rule,
    plan_files,
    rule_text,
    unit_text,
)
from vfiohost.boot.changes import PATHS, Found, wanted_files
from vfiohost.boot.checking import check_device
from vfiohost.boot.rule import RULE_PATH
from vfiohost.boot.words import MADE_BY, is_ours
from vfiohost.errors import ParseError, PlanRefused
from vfiohost.model import PciAddress, PciDevice, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

GPU = device("0000:65:00.0", "vfio-pci")
AUDIO = device("0000:65:00.1", "snd_hda_intel", ids="10de:1aef", class_code=0x040300)
NOTHING: Mapping[str, Found] = {path: Found() for path in PATHS}
INITRAMFS_TOOLS, DRACUT = GENERATORS


def snapshot(*devices: PciDevice) -> Snapshot:
    return Snapshot("6.12.0", devices, {})


def early() -> BootDevice:
    return boot_device(GPU, "vfio-pci")


def written(devices: Iterable[BootDevice], *generators: object) -> dict[str, Found]:
    """What there is after the files for some devices were made."""
    wanted = wanted_files(devices, [g for g in GENERATORS if g in generators])
    return {**NOTHING, **{path: Found(text) for path, (text, _) in wanted.items()}}


words = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
ids = st.integers(0, 0xFFFF)
boot_devices = st.builds(
    BootDevice,
    address=st.builds(
        PciAddress,
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 255),
        st.integers(0, 31),
        st.integers(0, 7),
    ),
    vendor=ids,
    device=ids,
    subsystem_vendor=ids,
    subsystem_device=ids,
    class_code=st.integers(0, 0xFFFFFF),
    driver=words,
    early=st.booleans(),
    path=st.none() | words.map("devices/{}".format),
)


@given(st.lists(boot_devices, max_size=4, unique_by=lambda d: d.address))
def test_the_rule_says_which_devices_it_is_about(devices: list[BootDevice]) -> None:
    assert parse_rule(rule_text(devices)) == tuple(sorted(devices, key=lambda d: d.address))


def test_what_has_no_subsystem_is_read_again_without_one() -> None:
    known = attrs.evolve(early(), subsystem_vendor=None, subsystem_device=None)
    assert parse_rule(rule_text([known])) == (known,)
    assert "subsystem" not in re.sub(r"^#.*$", "", rule_text([known]), flags=re.MULTILINE).replace(
        "[subsystem/pci]", ""
    )


@pytest.mark.parametrize(
    "driver",
    [
        'vfio"pci',
        "vfio pci",
        "$env{X}",
        "%k",
        "vfio*",
        "a|b",
        "vfio\n",
        "vfio\\",
        "",
        ".",
        "ä",
        "`x`",
    ],
)
def test_a_driver_that_a_rule_would_read_as_more_is_none(driver: str) -> None:
    with pytest.raises(ParseError):
        boot_device(GPU, driver)


@pytest.mark.parametrize(
    "path",
    ["sys/devices/../x", 'sys/devices/a"b', "sys/devices/*", "sys/class/x", "sys/devices/a b"],
)
def test_nor_is_a_path(path: str) -> None:
    with pytest.raises(ParseError):
        boot_device(attrs.evolve(GPU, path=path), "vfio-pci")


@pytest.mark.parametrize("line", ["#: nonsense", "#: 0000:65:00.0 ids=10de:2236", "#:"])
def test_a_rule_whose_description_makes_no_sense(line: str) -> None:
    with pytest.raises(ParseError, match=r"05-vfiohost.rules"):
        parse_rule(f"{MADE_BY}\n{line}\n")


@given(st.data())
def test_a_line_that_was_changed_is_refused_or_can_be_written_again(data: st.DataObject) -> None:
    line = next(line for line in rule_text([early()]).splitlines() if line.startswith("#:"))
    at = data.draw(st.integers(2, len(line)))
    behind = data.draw(st.integers(at, min(len(line), at + 4)))
    put = data.draw(st.text(max_size=4))
    try:
        found = parse_rule(f"{line[:at]}{put}{line[behind:]}")
    except ParseError:
        return
    assert parse_rule(rule_text(found)) == found


def test_each_line_that_writes_checks_who_the_device_is() -> None:
    lines = [
        line
        for line in rule_text([early(), boot_device(AUDIO, "none")]).splitlines()
        if re.search(r'(driver_override|drivers_probe)}="|RUN|TAG\+=', line)
    ]
    assert len(lines) == 6
    for line in lines:
        known = AUDIO if "65:00.1" in line else GPU
        assert re.search(r'(KERNEL=="|\[pci/)0000:65:00\.\d', line)
        assert re.search(rf'vendor}}=="0x{known.vendor_id:04x}"', line)
        assert re.search(rf'device}}=="0x{known.device_id:04x}"', line)
        assert re.search(rf'class}}=="0x{known.class_code:06x}"', line)
        assert f"/{known.path.removeprefix('sys/')}" in line
        if "driver_override" in line:
            assert re.search(r'TEST!="(/sys/\S+/)?driver"', line)


def test_none_loads_nothing_and_probes_nothing() -> None:
    text = rule_text([boot_device(AUDIO, "none")])
    assert 'driver_override}="none"' in text
    assert "kmod" not in text
    assert "drivers_probe" not in text


def test_the_module_is_not_the_driver() -> None:
    assert 'RUN{builtin}+="kmod load vfio_pci"' in rule_text([early()])


# udev(7): keys that match, keys that are assigned, and the operators of each.
TERM = re.compile(
    r"""(?:(?:ACTION|KERNEL|SUBSYSTEM|DEVPATH|TAG|TEST|PROGRAM|RESULT|(?:ATTR|ENV|SYSCTL)\{[^}"]+\})(?:==|!=)
        |(?:TAG|GOTO|LABEL|IMPORT\{builtin\}|RUN\{builtin\}|(?:ATTR|ENV)\{[^}"]+\})(?:=|\+=|:=))
        "(?:[^"\\]|\\.)*\"""",
    re.VERBOSE,
)


def test_udev_finds_nothing_wrong(tmp_path: Path) -> None:
    text = rule_text([early(), boot_device(AUDIO, "none")])
    logical = text.replace("\\\n", " ").splitlines()
    rules = [line for line in logical if line.strip() and not line.startswith("#")]
    assert rules
    for line in rules:
        terms = re.split(r",\s*(?=[A-Z])", line.strip())
        assert all(TERM.fullmatch(term) for term in terms), line
    gone = {m[1] for line in rules for m in re.finditer(r'GOTO="([^"]+)"', line)}
    assert gone <= {m[1] for line in rules for m in re.finditer(r'LABEL="([^"]+)"', line)}
    # `udevadm verify` came with systemd 254.
    verify = ["udevadm", "verify"]
    if shutil.which("udevadm") and not subprocess.call([*verify, "--help"], stdout=-3, stderr=-3):
        rule = tmp_path / "05-vfiohost.rules"
        rule.write_text(text)
        done = subprocess.run([*verify, str(rule)], check=False, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("class_code", [0x030200, 0x010802, 0x020000, 0x0C0330])
def test_an_initramfs_has_the_drivers_of_some_classes(class_code: int) -> None:
    there = device("0000:65:00.0", class_code=class_code)
    assert boot_device(there, "vfio-pci").early
    assert not boot_device(there, "vfio-pci", early=False).early


@pytest.mark.parametrize("class_code", [0x0C0500, 0x040300, 0x120000])
def test_and_not_those_of_others(class_code: int) -> None:
    there = device("0000:65:00.0", class_code=class_code)
    assert not boot_device(there, "vfio-pci").early
    assert boot_device(there, "vfio-pci", early=True).early


# ---- files ---------------------------------------------------------------------------------------


def test_what_is_not_early_needs_the_rule_alone() -> None:
    plan = plan_files([boot_device(AUDIO, "vfio-pci")], NOTHING, GENERATORS)
    assert [(c.path, c.kind) for c in plan.changes] == [(RULE_PATH, "make")]
    # initramfs-tools carries each rule of the host all the same.
    assert plan.commands == (INITRAMFS_TOOLS.command,)


def test_what_is_early_is_told_to_each_generator() -> None:
    plan = plan_files([early()], NOTHING, GENERATORS)
    texts = {change.path: change.after for change in plan.changes}
    assert set(texts) == set(PATHS) - {UNIT_PATH}
    assert plan.commands == (INITRAMFS_TOOLS.command, DRACUT.command)
    assert "manual_add_modules vfio_pci" in (texts[INITRAMFS_TOOLS.path] or "").splitlines()
    assert all(is_ours(text or "") for text in texts.values())


def test_without_a_generator_it_is_said_what_an_initramfs_would_need() -> None:
    plan = plan_files([early()], NOTHING, ())
    assert [c.path for c in plan.changes] == [RULE_PATH]
    (note,) = plan.notes
    assert "0000:65:00.0" in note
    assert "vfio_pci" in note


def test_the_same_again_changes_nothing() -> None:
    plan = plan_files([early()], written([early()], *GENERATORS), GENERATORS)
    assert plan.is_empty
    assert plan.commands == ()


def test_what_is_of_no_use_any_more_goes() -> None:
    plan = plan_files([boot_device(AUDIO, "none")], written([early()], DRACUT), [DRACUT])
    assert {c.path: c.kind for c in plan.changes} == {
        RULE_PATH: "change",
        DRACUT.path: "remove",
    }
    assert plan.commands == (DRACUT.command,)


def test_to_remove_all_leaves_what_others_have_made() -> None:
    found = written([early()], *GENERATORS) | {INITRAMFS_TOOLS.path: Found("#!/bin/sh\n")}
    plan = plan_files((), found, GENERATORS)
    assert {c.kind for c in plan.changes} == {"remove"}
    assert INITRAMFS_TOOLS.path not in {c.path for c in plan.changes}


@pytest.mark.parametrize("other", [Found("# mine\n"), Found(kind="a symbolic link"), Found("")])
def test_what_others_have_made_is_not_replaced(other: Found) -> None:
    with pytest.raises(PlanRefused) as refused:
        plan_files(
            [early()], {**NOTHING, INITRAMFS_TOOLS.path: other, RULE_PATH: other}, GENERATORS
        )
    assert [(r.code, r.subject) for r in refused.value.refusals] == [
        ("foreign-file", f"/{RULE_PATH}"),
        ("foreign-file", f"/{INITRAMFS_TOOLS.path}"),
    ]


@pytest.mark.parametrize("generator", [INITRAMFS_TOOLS])
def test_the_hook_is_a_shell_script(generator: object, tmp_path: Path) -> None:
    text, mode = wanted_files([early()], [INITRAMFS_TOOLS])[INITRAMFS_TOOLS.path]
    assert mode & 0o111
    hook = tmp_path / "hook"
    hook.write_text(text)
    assert subprocess.run(["sh", "-n", str(hook)], check=False).returncode == 0
    done = subprocess.run(["sh", str(hook), "prereqs"], check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"udev\n")


def test_dracuts_file_is_sourced_by_a_shell(tmp_path: Path) -> None:
    text = wanted_files([early()], [DRACUT])[DRACUT.path][0]
    conf = tmp_path / "vfiohost.conf"
    conf.write_text(text)
    script = f'. {conf}; echo "$add_drivers|$install_items"'
    done = subprocess.run(["bash", "-euc", f"add_drivers=x install_items=y; {script}"],
                          check=True, capture_output=True, text=True)  # fmt: skip
    assert done.stdout == f"x vfio_pci |y /{RULE_PATH} \n"


def test_the_unit_is_early_enough_and_waits_for_nothing_slow(tmp_path: Path) -> None:
    text = unit_text("/usr/bin/true")
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    assert unit["Service"]["Type"] == "oneshot"
    assert "settle" not in text
    assert re.search(r"^Before=.*libvirtd\.service.*kubelet\.service", text, re.MULTILINE)
    if shutil.which("systemd-analyze") is None:
        return
    path = tmp_path / "vfiohost.service"
    path.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert "vfiohost.service" not in done.stderr


# ---- the host as it is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "verdict"),
    [
        ((GPU,), "right"),
        ((attrs.evolve(GPU, driver=None),), "other-driver"),
        ((attrs.evolve(GPU, driver="nouveau"),), "other-driver"),
        ((attrs.evolve(GPU, device_id=0x1EB8),), "other-device"),
        ((attrs.evolve(GPU, vendor_id=0x8086),), "other-device"),
        ((attrs.evolve(GPU, class_code=0x030000),), "other-device"),
        ((attrs.evolve(GPU, subsystem_device_id=0x9999),), "other-device"),
        ((attrs.evolve(GPU, path="sys/devices/pci0000:64/0000:65:00.0"),), "other-device"),
        ((AUDIO,), "absent"),
        ((), "absent"),
    ],
)
def test_what_is_said_of_a_device(there: tuple[PciDevice, ...], verdict: str) -> None:
    known = early()
    check = check_device(known, [known], snapshot(*there))
    assert check.verdict == verdict
    assert bool(check.differences) is (verdict == "other-device")


def test_a_device_that_has_moved_is_found() -> None:
    known, moved = early(), device("0000:66:00.0", "nouveau")
    check = check_device(known, [known], snapshot(moved))
    assert (check.verdict, check.elsewhere) == ("absent", (address("0000:66:00.0"),))


def test_one_that_has_a_place_of_its_own_is_no_candidate() -> None:
    known, other = early(), device("0000:66:00.0", "vfio-pci")
    check = check_device(known, [known, boot_device(other, "vfio-pci")], snapshot(other))
    assert check.elsewhere == ()


def test_none_is_right_without_a_driver() -> None:
    known = boot_device(AUDIO, "none")
    driverless = attrs.evolve(AUDIO, driver=None)
    assert check_device(known, [known], snapshot(driverless)).verdict == "right"
    assert check_device(known, [known], snapshot(AUDIO)).verdict == "other-driver"
