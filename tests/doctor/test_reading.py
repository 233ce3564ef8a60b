"""Reading the facts: within bounds, without waking anything, and the same from a recording."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import time
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.native.trees import BUS, Lookout, Tree, ordinary_user
from vfiohost import Host, recording, testing
from vfiohost.doctor import examine, guest_devices, read_facts, sources
from vfiohost.model import Unavailable
from vfiohost.render.findings import finding_lines
from vfiohost.sysfs import Sysfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vfiohost.doctor import Finding, HostFacts

GPU = "0000:65:00.0"
GPU_PATH = f"sys/devices/pci0000:64/0000:64:02.0/{GPU}"
PORT_PATH = "sys/devices/pci0000:64/0000:64:02.0"
BRIDGE = "pci:v00008086d00003420sv00000000sd00000000bc06sc04i00"

# One path for each source.
PATHS = [
    source.pattern.replace("pci-*", f"pci-{GPU}")
    .replace("[0-9]*", "812")
    .replace("*/*", "0000:65:00.4/0b5cd3fe")
    .replace("*", "dma_entry_limit" if source.pattern.endswith("parameters/*") else "x")
    for source in (*sources.COMMON, *sources.MORE)
]
PATHS += ["sys/kernel/irq/30/chip_name", "proc/interrupts", "run/vfiohost/lock"]
PATHS += [f"{GPU_PATH}/{name}" for name in ("resource", "reset_method", "d3cold_allowed", "config")]
PATHS += [f"{PORT_PATH}/config", f"{PORT_PATH}/power/runtime_status", f"{GPU_PATH}/power_state"]
PATHS += [f"{sources.HUGEPAGES}/hugepages-2048kB/nr_hugepages", "sys/kernel/irq/31/actions"]
PATHS += ["lib/modules/6.12.117-amd64/modules.alias", "var/lib/vfiohost/journal/x.jsonl"]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return filled(tmp_path)


def filled(root: Path) -> Tree:
    """Two A10 in one group, behind one port."""
    tree = Tree(root)
    tree.function("0000:64:02.0", modalias=BRIDGE)
    for address in (GPU, "0000:66:00.0"):
        tree.function(address, bridge="pci0000:64/0000:64:02.0", sriov_totalvfs="32\n")
        tree.link(f"{PORT_PATH}/{address}/iommu_group", "../../../../kernel/iommu_groups/15")
    tree.write(f"{PORT_PATH}/power/runtime_status", "active\n")
    tree.write(f"{PORT_PATH}/power_state", "D0\n")
    tree.write(f"{PORT_PATH}/config", bytes(4096))
    return tree


def facts_of(root: Path) -> HostFacts:
    with Sysfs(root) as sysfs, Host(root) as host:
        snapshot = host.scan(mdev=True)
        return read_facts(sysfs, snapshot, guest_devices(snapshot))


def found_at(root: Path) -> tuple[Finding, ...]:
    with Host(root) as host:
        return host.examine()


def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sysfs, "is_live", lambda _: True)


# ---- anything may stand in a file --------------------------------------------------------------

lines = st.lists(
    st.sampled_from(
        [
            b'iommu=off "a b" amd_iommu=on vfio-pci.ids=10de:2236,x',
            b"Max locked memory 99999999999999999999999 1 bytes",
            b"HugePages_Total: \xb2",
            b"HugePages_Free:",
            b"  0-f : BOOTFB",
            b"ffffffffffffffffffff-0 : 0000:65:00.0",
            b"options vfio-pci ids=10de:2236,::,\xff",
            b"flags\t: hypervisor",
            b"0x0 0xffffffffffffffff 0x1",
            b"Y",
            b"CapEff:\tzz",
            b'{"pid": 1e999, "start": -1}',
            b"NVRM version: 1.2.3.4.5",
        ]
    )
    | st.binary(max_size=60)
).map(b"\n".join)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(contents=st.lists(lines, min_size=len(PATHS), max_size=len(PATHS)), is_live=st.booleans())
@example(contents=[b""] * len(PATHS), is_live=True)
@example(contents=[b"\xff" * 70_000] * len(PATHS), is_live=True)
@example(contents=[b"[" * 4000] * len(PATHS), is_live=False)
def test_nothing_in_a_file_can_make_it_fail(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    contents: list[bytes],
    *,
    is_live: bool,
) -> None:
    root = tmp_path_factory.mktemp("any")
    tree = filled(root)
    for path, content in zip(PATHS, contents, strict=True):
        tree.write(path, content)
    monkeypatch.setattr(Sysfs, "is_live", lambda _: is_live)
    found = found_at(root)
    assert found
    assert finding_lines(found, "/")
    shutil.rmtree(root)


@given(content=lines)
@pytest.mark.parametrize("source", sources.COMMON, ids=lambda s: s.pattern)
def test_what_is_kept_is_kept_as_it_is(source: sources.Source, content: bytes) -> None:
    kept = source.keep(content)
    if kept is not None:
        assert source.keep(kept) == kept
        assert source.keep is bytes or len(kept) <= len(content) + 60


# ---- what is kept ------------------------------------------------------------------------------


def test_of_the_processor_its_maker_and_three_flags_are_kept() -> None:
    text = b"processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: fpu vmx lm\n"
    assert sources.keep_cpu(text * 9) == b"vendor_id\t: GenuineIntel\nflags\t: vmx\n"


def test_of_the_memory_map_the_framebuffer_and_what_it_lies_in_are_kept() -> None:
    text = (
        b"0-fff : Reserved\na0000000-afffffff : PCI Bus 0000:64\n"
        b"  a0000000-a7ffffff : 0000:65:00.0\n    a0000000-a02fffff : BOOTFB\n"
        b"  a8000000-a8ffffff : nvme\nfee00000-fee00fff : Local APIC\n"
    )
    assert sources.keep_framebuffer(text) == b"\n".join(text.split(b"\n")[1:4]) + b"\n"


def test_of_modprobe_no_command_and_no_other_module_is_kept() -> None:
    text = (
        b"# options vfio-pci ids=1\noptions vfio-pci ids=10de:2236 secret=me disable_vga=1\n"
        b"install nouveau /usr/bin/curl http://alice@host\noptions snd index=1\nblacklist nouveau\n"
    )
    kept = b"options vfio-pci ids=10de:2236 disable_vga=1\ninstall nouveau\nblacklist nouveau\n"
    assert sources.keep_modprobe(text) == kept


def test_of_a_rule_only_what_it_speaks_of_is_kept() -> None:
    rule = b'SUBSYSTEM=="vfio", OWNER="alice"\n# driver_override\n'
    assert sources.keep_mention(rule) == b"vfio\n"
    assert sources.keep_mention(b"# vfio\n") is None


def test_of_a_xen_domain_only_that_it_is_the_first_is_kept() -> None:
    zeros = b"00000000-0000-0000-0000-000000000000\n"
    assert sources.keep_first_domain(zeros) == zeros
    assert sources.keep_first_domain(zeros.replace(b"0-", b"1-")) is None


# /proc/interrupts of a desktop with an AMD processor, and Linux 6.1.
AMD_INTERRUPTS = b"""\
            CPU0       CPU1
   0:         37          0  IR-IO-APIC    2-edge      timer
  25:          0          0   PCI-MSI 4096-edge      AMD-Vi
  26:          0          0  IR-PCI-MSI 18432-edge      aerdrv
 TRM:          0          0   Thermal event interrupts
"""


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (AMD_INTERRUPTS, b"IR-PCI-MSI\n"),
        (AMD_INTERRUPTS.replace(b"IR-", b""), b"PCI-MSI\n"),
        (b" 25: 0 0 PCI-MSI-0000:00:00.2    0-edge      AMD-Vi\n", None),
        (b" 26: 0 0 IOMMU-MSI  368-edge  AMD-Vi0-Evt\n 9: 1 IO-APIC 9-fasteoi acpi", b"IO-APIC\n"),
        (b"120: 0 DMAR-MSI    0-edge      dmar0\n", None),
        (b" 30: 5 ITS-PCI-MSIX-0000:01:00.0 0 Edge nvme0q0\n", None),
        (b"\0\xff", None),
    ],
)
def test_of_the_interrupts_the_chip_that_tells_most_is_kept(
    text: bytes, kept: bytes | None
) -> None:
    assert sources.keep_interrupts(text) == kept
    assert kept is None or sources.keep_interrupts(kept) == kept


# ---- what is read, and what is not -------------------------------------------------------------


def test_the_interrupt_of_the_iommu_itself_tells_nothing(tree: Tree) -> None:
    """AMD's is never remapped, and comes first."""
    for number, chip, actions in (
        (25, "PCI-MSI-0000:00:00.2", "AMD-Vi"),
        (26, "IR-PCI-MSI-0000:00:01.1", "PCIe PME,aerdrv"),
        (27, "PCI-MSI-0000:02:00.0", ""),
    ):
        tree.write(f"sys/kernel/irq/{number}/chip_name", f"{chip}\n")
        tree.write(f"sys/kernel/irq/{number}/actions", f"{actions}\n")
    assert facts_of(tree.root).files["sys/kernel/irq/26/chip_name"] == b"IR-PCI-MSI\n"
    assert "sys/kernel/irq/25/chip_name" not in facts_of(tree.root).files


def test_without_sysfs_proc_interrupts_tells(tree: Tree) -> None:
    tree.write("proc/interrupts", AMD_INTERRUPTS)
    assert facts_of(tree.root).files["proc/interrupts"] == b"IR-PCI-MSI\n"


def test_a_port_that_is_awake_is_read_and_one_that_sleeps_is_not(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(monkeypatch)
    assert f"{PORT_PATH}/config" in facts_of(tree.root).files
    tree.write(f"{PORT_PATH}/power/runtime_status", "suspended\n")
    tree.write(f"{PORT_PATH}/power_state", "D3hot\n")
    assert f"{PORT_PATH}/config" in facts_of(tree.root).files  # which leaves it asleep
    for status, state in (("suspended", "D3cold"), ("suspending", "D0"), ("error", "D0")):
        tree.write(f"{PORT_PATH}/power/runtime_status", f"{status}\n")
        tree.write(f"{PORT_PATH}/power_state", f"{state}\n")
        with Lookout(tree.root / PORT_PATH / "config") as lookout:
            facts = facts_of(tree.root)
            assert lookout.seen() == 0
        assert f"{PORT_PATH}/config" not in facts.files
    (tree.root / PORT_PATH / "power/runtime_status").unlink()
    assert f"{PORT_PATH}/config" not in facts_of(tree.root).files


def test_the_configuration_space_of_devices_is_never_read(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(monkeypatch)
    spaces = [tree.write(f"{GPU_PATH}/{name}", bytes(256)) for name in ("config", "vpd", "rom")]
    numvfs = tree.write(f"{GPU_PATH}/sriov_numvfs", "0\n")
    with Lookout(*spaces, numvfs) as lookout:
        assert examine(facts_of(tree.root))
        assert lookout.seen() == 0


def test_a_port_alone_in_front_of_its_group_is_not_read(tree: Tree) -> None:
    shutil.rmtree(tree.root / PORT_PATH / "0000:66:00.0")
    (tree.root / BUS / "0000:66:00.0").unlink()
    with Lookout(tree.root / PORT_PATH / "config") as lookout:
        assert "groups-separate" in [f.code for f in examine(facts_of(tree.root))]
        assert lookout.seen() == 0


@pytest.mark.parametrize("path", [f"{PORT_PATH}/config", sources.SECURE_BOOT])
def test_what_does_not_answer_is_not_waited_for(tree: Tree, path: str) -> None:
    file = tree.root / path
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(file)
    began = time.monotonic()
    with Sysfs(tree.root) as sysfs, Host(tree.root) as host:
        snapshot = host.scan(mdev=True)
        facts = read_facts(sysfs, snapshot, guest_devices(snapshot), timeout=0.2)
    assert time.monotonic() - began < 5
    assert facts.files[path] == Unavailable(0, "no answer in time")
    assert "unreadable" in [f.code for f in examine(facts)]


def test_an_ordinary_user_is_told_what_was_not_read(tree: Tree) -> None:
    for path in ("etc/modprobe.d/x.conf", "proc/iomem", "var/lib/vfiohost/journal/x.jsonl"):
        tree.write(path, "options vfio-pci ids=10de:2236\n").chmod(0)
    (tree.root / "var/lib/vfiohost").chmod(0o700)
    tree.root.chmod(0o755)
    with Host(tree.root) as host, ordinary_user():
        found = host.examine()
    unread = sorted(e.path for f in found if f.code == "unreadable" for e in f.evidence)
    assert unread == ["etc/modprobe.d/x.conf", "proc/iomem", "var/lib/vfiohost/journal"]
    assert "journal-clean" not in [f.code for f in found]


def test_a_link_out_of_the_root_is_not_followed(
    tree: Tree, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "version"
    outside.write_text("NVRM version: 999.99 secret\n")
    tree.link(
        "proc/driver/nvidia/version", os.path.relpath(outside, tree.root / "proc/driver/nvidia")
    )
    with Lookout(outside) as lookout:
        facts = facts_of(tree.root)
        assert lookout.seen() == 0
    assert "proc/driver/nvidia/version" not in facts.files


def test_a_file_that_is_too_large_is_unreadable(tree: Tree) -> None:
    tree.write(f"etc/driverctl.d/pci-{GPU}", "x" * 5000)
    said = facts_of(tree.root).files[f"etc/driverctl.d/pci-{GPU}"]
    assert said == Unavailable(errno.EFBIG, os.strerror(errno.EFBIG))


# ---- vfiohost's own ----------------------------------------------------------------------------


def test_a_lock_of_a_process_that_ended_is_stale(tree: Tree) -> None:
    never = 1 << 60  # process 1 may well have started in the first tick of its machine
    holder = {"pid": 1, "start": never, "purpose": "bind 65:00.0", "since": "2025-01-02T03:04:05"}
    tree.write("run/vfiohost/lock", json.dumps(holder))
    (stale,) = (f for f in found_at(tree.root) if f.code == "lock-stale")
    assert "vfiohost bind 65:00.0" in stale.evidence[0].value
    with open("/proc/self/stat", "rb") as file:
        start = int(file.read().rpartition(b")")[2].split()[19])
    tree.write("run/vfiohost/lock", json.dumps(holder | {"pid": os.getpid(), "start": start}))
    assert "lock-held" in [f.code for f in found_at(tree.root)]
    tree.write("run/vfiohost/lock", json.dumps(holder | {"namespace": 1}))
    (held,) = (f for f in found_at(tree.root) if f.code == "lock-held")
    assert "pid 1 of another PID namespace" in held.evidence[0].value


def test_a_damaged_journal_is_found(tree: Tree) -> None:
    directory = tree.write("var/lib/vfiohost/journal/x.jsonl", "no json\n").parent
    for path in (directory, directory.parent):
        path.chmod(0o700)
    (directory / "x.jsonl").chmod(0o600)
    assert "journal-damaged" in [f.code for f in found_at(tree.root)]


# ---- a recording says the same -----------------------------------------------------------------

FULL: dict[str, str | bytes] = {
    "proc/cmdline": "root=UUID=0b8e6b1f-6c1f-4d0a-9f0e-5f7b3a1c2d3e amd_iommu=on "
    "pcie_acs_override=downstream vfio-pci.ids=10de:2236\n",
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t: fpu svm hypervisor\n",
    "proc/meminfo": "MemTotal: 1 kB\nHugePages_Total: 512\nHugePages_Free: 0\n",
    "proc/self/limits": "Limit Soft\nMax locked memory 8388608 8388608 bytes\n",
    "proc/self/status": "Name:\tx\nCapEff:\t0000000000000000\n",
    "proc/iomem": f"a0000000-afffffff : {GPU}\n  a0000000-a02fffff : BOOTFB\n",
    "proc/812/comm": "virt-handler\n",
    "proc/813/comm": "alices-secret\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  "
    "550.90.07  Release Build  (root@SECRET-host)  \nGCC version: 12\n",
    "sys/class/dmi/id/sys_vendor": "QEMU\n",
    "sys/class/dmi/id/product_serial": "SECRET\n",
    "sys/kernel/irq/30/chip_name": "PCI-MSIX-0000:65:00.0\n",
    "sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
    "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts": "Y\n",
    "sys/module/vfio_iommu_type1/initstate": "live\n",
    "proc/sys/vm/overcommit_memory": "2\n",
    "etc/modprobe.d/vfio.conf": "options vfio-pci ids=10de:2236\n",
    f"etc/driverctl.d/pci-{GPU}": "vfio-pci\n",
    "etc/mdevctl.d/0000:65:00.4/0b5cd3fe-1b2c-4d5e-8f90-123456789abc": "{}",
    "etc/libvirt/hooks/qemu.d/10-gpu": "#!/bin/sh\necho SECRET\n",
    "etc/udev/rules.d/9.rules": 'SUBSYSTEM=="vfio", OWNER="alice"\n',
    "sys/firmware/acpi/tables/DMAR": b"DMAR SECRET",
    "sys/firmware/acpi/tables/SSDT": b"SECRET",
    "sys/class/iommu/dmar0": "",
    f"{GPU_PATH}/d3cold_allowed": "1\n",
    f"{GPU_PATH}/reset_method": "\n",
    f"{GPU_PATH}/power_state": "D3cold\n",
    sources.SECURE_BOOT: b"\x06\0\0\0\x01",
}


def told_by(found: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    return [(f.code, f.subject, f.sentence) for f in found]


def test_the_same_is_found_on_a_recording(tree: Tree, tmp_path: Path) -> None:
    for path, content in FULL.items():
        tree.write(path, content)
    with Host(tree.root) as host:
        text = recording.format(host.record(config=True))
    again = tmp_path / "again"
    testing.expand(recording.parse(text), again)
    mine, its = told_by(found_at(tree.root)), told_by(found_at(again))
    assert its == mine
    assert len({f.code for f in found_at(again)}) > 18
    for secret in ("SECRET", "alice", "0b8e6b1f", "MemTotal", "GCC"):
        assert secret not in text


@pytest.mark.parametrize("name", ["a10-pair", "no-iommu", "rtx-workstation"])
def test_a_simulated_host_keeps_what_was_recorded(name: str, tmp_path: Path) -> None:
    """The simulation's tree says what a mere expansion says."""
    recorded = testing.load(name)
    testing.expand(recorded, tmp_path / "expanded")
    testing.create(recorded, tmp_path / "simulated").sysfs.close()
    expanded = found_at(tmp_path / "expanded")
    assert told_by(found_at(tmp_path / "simulated")) == told_by(expanded)


def test_facts_are_frozen_and_can_be_pickled(tree: Tree) -> None:
    facts = facts_of(tree.root)
    assert pickle.loads(pickle.dumps(facts)) == facts
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        facts.is_live = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        facts.files["x"] = b""  # type: ignore[index]


def stuck_overrides(tree: Tree) -> Iterator[Path]:
    for address in (GPU, "0000:66:00.0"):
        path = tree.root / PORT_PATH / address / "driver_override"
        os.mkfifo(path)
        yield path


def test_a_device_that_is_locked_is_said_to_be(tree: Tree) -> None:
    assert list(stuck_overrides(tree))
    unread = [f for f in found_at(tree.root) if f.code == "unreadable"]
    assert [e.value for f in unread for e in f.evidence] == ["device locked"] * 2
