"""The checks on facts: each code appears where it should, and only there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from tests.doctor.hosts import (
    ALONE,
    AMD,
    ARM,
    CASES,
    GPU,
    GUEST,
    INTEL,
    IRQ,
    MEMINFO,
    NO_GROUP,
    NVIDIA,
    PORT,
    TWO_CARDS,
    TYPE1,
    VGPU_MODULES,
    at,
    facts,
    gpu,
    line,
    of,
    port,
    told,
)
from tests.pure.hosts import device
from vfiohost.doctor import CODES, Evidence, Finding, Own, examine
from vfiohost.doctor.sources import ACPI_TABLES
from vfiohost.model import Unavailable

if TYPE_CHECKING:
    from vfiohost.doctor import HostFacts

BAD = {
    "iommu-firmware-off",
    "iommu-kernel-off",
    "iommu-disabled",
    "iommu-failed",
    "iommu-off",
    "guest-without-viommu",
    "xen",
    "vfio-missing",
    "no-interrupt-remapping",
    "journal-open",
    "journal-pending",
}


def codes(host: HostFacts) -> list[str]:
    return [finding.code for finding in examine(host)]


def the(code: str, host: HostFacts) -> Finding:
    (found,) = (finding for finding in examine(host) if finding.code == code)
    return found


@pytest.mark.parametrize("code", CODES)
def test_each_code_is_found_and_not_found(code: str) -> None:
    where, where_not = CASES[code]
    assert code in codes(where)
    assert code not in codes(where_not)


def test_there_is_a_case_for_each_code_alone() -> None:
    assert set(CASES) == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_finding_says_what_was_read_and_what_to_do(code: str) -> None:
    for finding in examine(CASES[code][0]):
        assert finding.evidence
        assert all(e.path and not e.path.startswith("/") and e.value for e in finding.evidence)
        assert finding.sentence.endswith(".")
        assert finding.remedy is None or finding.remedy.endswith(".") or "echo " in finding.remedy
        if finding.severity in ("bad", "warning"):
            assert finding.remedy


def test_what_is_bad_is_what_stands_in_the_way() -> None:
    bad = {f.code for case in CASES.values() for f in examine(case[0]) if f.severity == "bad"}
    assert bad == BAD


def test_findings_come_worst_first() -> None:
    host = told("proc/cpuinfo", GUEST, gpu(), device("0000:66:00.0"), own=Own(open=("bind",)))
    severities = [finding.severity for finding in examine(host)]
    assert severities == sorted(severities, key=["bad", "warning", "info", "ok"].index)
    assert set(severities) == {"bad", "warning", "info", "ok"}


def test_a_code_that_is_not_listed_cannot_be_found() -> None:
    with pytest.raises(ValueError, match="no-such-code"):
        Finding("no-such-code", "bad", "host", (Evidence("a", "b"),), "It is bad.")


# ---- the IOMMU ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu", "words", "advice"),
    [
        (INTEL, "quiet", "add intel_iommu=on to the kernel's command line"),
        (INTEL, "intel_iommu=on", "The command line needs nothing more"),
        (AMD, "quiet", "an AMD IOMMU is then on by itself"),
        (b"", "quiet", "On Intel, add intel_iommu=on"),
    ],
)
def test_the_remedy_is_for_this_command_line(cpu: bytes, words: str, advice: str) -> None:
    files = {"proc/cpuinfo": cpu, "proc/cmdline": f"{words}\n".encode()}
    host = facts(NO_GROUP, files=files, names={ACPI_TABLES: ()})
    assert advice in (the("iommu-firmware-off", host).remedy or "")


def test_a_table_of_amd_without_groups_is_no_missing_word() -> None:
    host = told("proc/cpuinfo", AMD, NO_GROUP, names={ACPI_TABLES: ("IVRS",)})
    assert "AMD-Vi (IVRS)" in the("iommu-failed", host).sentence


def test_only_one_cause_is_given() -> None:
    for code in CODES:
        if code.startswith("iommu-") or code == "guest-without-viommu":
            causes = [c for c in codes(CASES[code][0]) if c.startswith("iommu-") or "viommu" in c]
            assert causes == [code]


def test_groups_of_noiommu_mode_are_none() -> None:
    host = facts(names={"dev/vfio": ("noiommu-15", "vfio")})
    assert "iommu-kernel-off" in codes(host)
    assert "iommu-on" not in codes(host)


def test_a_group_that_could_not_be_read_is_not_called_missing() -> None:
    host = facts(gpu(group=Unavailable(13, "Permission denied")))
    assert "iommu-unknown" in codes(host)
    outside = facts(gpu(), device("0000:66:00.0", group=Unavailable(13, "Permission denied")))
    assert "outside-iommu" not in codes(outside)


def test_words_after_the_dashes_are_not_the_kernels() -> None:
    assert "acs-override" not in codes(line("quiet -- pcie_acs_override=downstream"))


def test_an_iommu_itself_is_behind_none() -> None:
    """AMD's is a PCI device (class 0806), and virtio's."""
    amd = device("0000:00:00.2", ids="1022:1631", class_code=0x080600)
    virtio = device("0000:00:04.0", ids="1af4:1057", class_code=0x00FF00)
    assert "iommu-on" in codes(facts(gpu(), amd, virtio))


def test_what_no_guest_gets_may_be_outside() -> None:
    host = facts(gpu(), device("0000:00:02.0", class_code=0x078000))
    assert the("outside-iommu", host).severity == "warning"
    (named,) = (d.address for d in host.snapshot.devices if str(d.address) == GPU)
    assert the("outside-iommu", attrs.evolve(host, subjects=(named,))).severity == "info"


def test_groups_that_could_not_be_read_are_not_said_to_be_there() -> None:
    host = facts(gpu(), device("0000:66:00.0", group=Unavailable(13, "Permission denied")))
    assert the("iommu-on", host).sentence.endswith("The group of 1 function could not be read.")


@pytest.mark.parametrize(
    ("table", "words", "off"),
    [
        ("DMAR", "intel_iommu=off", "intel_iommu=off"),
        ("DMAR", "intel_iommu=off intel_iommu=on", None),
        ("DMAR", "intel_iommu=on,off", "intel_iommu=off"),
        ("DMAR", "amd_iommu=off", None),
        ("IVRS", "intel_iommu=off", None),
        ("IVRS", "amd_iommu=off", "amd_iommu=off"),
        ("IVRS", "iommu=off", "iommu=off"),
    ],
)
def test_only_a_word_for_this_iommu_switches_it_off(
    table: str, words: str, off: str | None
) -> None:
    host = line(words, NO_GROUP, names={ACPI_TABLES: (table,)})
    found = [f for f in examine(host) if f.code == "iommu-disabled"]
    assert [off in f.sentence for f in found if off] == [True] * bool(off)
    assert bool(found) == (off is not None)


@pytest.mark.parametrize("tables", [("IORT",), (), None])
def test_on_arm_a_table_is_no_smmu(tables: tuple[str, ...] | None) -> None:
    """An IORT describes the interrupt controller too; with a device tree there is no table."""
    missing = Unavailable(2, "No such file or directory")
    names = {ACPI_TABLES: missing if tables is None else tables}
    files = {"proc/cpuinfo": ARM, "proc/cmdline": b"iommu=off\n"}
    found = the("iommu-off", facts(NO_GROUP, files=files, names=names))
    assert "SMMU" in (found.remedy or "")
    assert "VT-d" not in (found.remedy or "")
    guest = files | {"sys/class/dmi/id/sys_vendor": b"QEMU\n"}
    found = the("guest-without-viommu", facts(NO_GROUP, files=guest, names=names))
    assert "smmuv3" in (found.remedy or "")


def test_a_copy_of_an_arm_host_needs_no_acpi() -> None:
    host = told("proc/cpuinfo", ARM, is_live=False)
    without = attrs.evolve(host, names={"sys/module": ()})
    assert "not-there" not in codes(without)
    intel = attrs.evolve(without, files={**without.files, "proc/cpuinfo": INTEL})
    assert "not-there" in codes(intel)


# ---- interrupts --------------------------------------------------------------------------------

UNSAFE = f"{TYPE1}/allow_unsafe_interrupts"


@pytest.mark.parametrize(
    ("cpu", "words", "advice"),
    [
        (INTEL, "quiet", "with VT-d, and x2APIC"),
        (AMD, "quiet", "the firmware's table IVRS"),
        (AMD, "intremap=off", "Take intremap=off off the kernel's command line"),
        (INTEL, "nointremap", "Take nointremap off"),
        (GUEST, "quiet", "amd-iommu,intremap=on"),
    ],
)
def test_what_remaps_interrupts_depends_on_the_host(cpu: bytes, words: str, advice: str) -> None:
    files = {IRQ: b"PCI-MSI\n", "proc/cpuinfo": cpu, "proc/cmdline": words.encode()}
    remedy = the("no-interrupt-remapping", facts(files=files)).remedy or ""
    assert advice in remedy
    assert ("x2APIC" in remedy) == (advice == "with VT-d, and x2APIC")
    files[UNSAFE] = b"Y\n"
    assert "no-interrupt-remapping" not in codes(facts(files=files))
    assert advice in (the("unsafe-interrupts", facts(files=files)).remedy or "")


@pytest.mark.parametrize("chip", [b"IR-PCI-MSI\n", b"IR-IO-APIC\n"])
@pytest.mark.parametrize("cpu", [INTEL, AMD, b"vendor_id\t:   Shanghai  \n"])
def test_an_option_without_effect_is_no_warning(cpu: bytes, chip: bytes) -> None:
    host = facts(files={UNSAFE: b"Y\n", IRQ: chip, "proc/cpuinfo": cpu})
    assert the("unsafe-interrupts", host).severity == "info"
    assert "interrupt-remapping" in codes(host)


def test_iommufd_has_the_option_too() -> None:
    path = "sys/module/iommufd/parameters/allow_unsafe_interrupts"
    found = the("unsafe-interrupts", facts(files={path: b"Y\n", IRQ: b"PCI-MSI\n"}))
    assert (found.subject, found.severity) == ("iommufd", "warning")


def test_on_arm_nothing_is_said_of_remapping() -> None:
    arm = {"proc/cpuinfo": ARM, IRQ: b"PCI-MSI\n"}
    assert not [code for code in codes(facts(files=arm)) if "interrupt" in code]
    assert "ITS" in (the("unsafe-interrupts", facts(files=arm | {UNSAFE: b"Y"})).remedy or "")


# ---- groups ------------------------------------------------------------------------------------


def config(
    kind: int | None, acs: tuple[int, int] | None = None, *, size: int = 4096, loop: bool = False
) -> bytes:
    """A configuration space with a PCI Express capability, and ACS."""
    made = bytearray(size)
    made[0x06], made[0x34] = 0x10, 0x40
    made[0x40:0x43] = bytes([0x05, 0x40 if loop else 0x50, 0])
    if kind is not None and not loop:
        made[0x50:0x53] = bytes([0x10, 0, kind << 4])
    if size > 0x200:
        made[0x100:0x104] = (0x0001 | 1 << 16 | 0x148 << 20).to_bytes(4, "little")
    if acs is not None:
        made[0x148:0x14C] = (0x000D | 1 << 16 | (0x100 if loop else 0) << 20).to_bytes(4, "little")
        made[0x14C:0x150] = acs[0].to_bytes(2, "little") + acs[1].to_bytes(2, "little")
    return bytes(made)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (config(4), f"{PORT} has no Access Control Services (ACS)."),
        (config(4, (0x1D, 0x1D)), None),
        (config(6, (0x1F, 0x01)), f"{PORT} has ACS, but not switched on: request redirection"),
        (config(5), None),
        (config(7), f"{PORT} leads to conventional PCI"),
        (config(None), f"{PORT} leads to conventional PCI"),
        (config(4, (0x0D, 0x0D)), None),
        (config(4, size=64), None),
    ],
    ids=["none", "on", "off", "upstream", "to-pci", "pci", "what-it-can", "not-root"],
)
def test_the_port_without_acs_is_named(content: bytes, says: str | None) -> None:
    host = told(f"{port().path}/config", content, *TWO_CARDS)
    found = the("group-shared", host)
    if says is None:
        assert f"{PORT} has" not in found.sentence
        assert f"{PORT} leads" not in found.sentence
    else:
        assert says in found.sentence
    assert any(e.path == f"{port().path}/config" for e in found.evidence)


def test_without_root_there_is_no_word_on_acs() -> None:
    host = told(f"{port().path}/config", config(4, size=64), *TWO_CARDS)
    (seen,) = (e for e in the("group-shared", host).evidence if e.path.endswith("/config"))
    assert "without root" in seen.value


def test_capabilities_in_a_circle_end() -> None:
    host = told(f"{port().path}/config", config(4, (1, 1), loop=True), *TWO_CARDS)
    assert "group-shared" in codes(host)


def test_a_sleeping_port_is_not_blamed() -> None:
    found = the("group-shared", facts(*TWO_CARDS))
    assert any("sleeps" in e.value for e in found.evidence)
    copy = the("group-shared", facts(*TWO_CARDS, is_live=False))
    assert any("--with-config" in e.value for e in copy.evidence)


def test_the_drivers_that_block_are_named() -> None:
    assert f"{GPU} (nouveau) would keep a guest" in the("group-shared", facts(*TWO_CARDS)).sentence


# ---- devices -----------------------------------------------------------------------------------


def test_an_unset_bar_of_vfs_has_no_address() -> None:
    unset = b"0x00000000fd000000 0x00000000fdffffff 0x0000000000040200\n" * 7 + (
        b"0x0000000000001000 0x0000000000001fff 0x000000002014220c\n" * 6
    )
    found = the("vf-bars-unassigned", told(of(GPU, "resource"), unset, gpu(total_vfs=4)))
    assert found.evidence[-1].value == "VF BARs: none has an address"


def test_resources_that_make_no_sense_say_nothing() -> None:
    host = told(of(GPU, "resource"), b"0x0 0x0\n\xff", gpu(total_vfs=4))
    assert not {"vf-bars-unassigned", "sriov-ready"} & set(codes(host))


def test_a_framebuffer_is_found_without_addresses() -> None:
    lines = f"00000000-00000000 : {GPU}\n  00000000-00000000 : BOOTFB\n".encode()
    assert "framebuffer" in codes(told("proc/iomem", lines))
    other = lines.replace(GPU.encode(), b"0000:66:00.0")
    assert "framebuffer" not in codes(told("proc/iomem", other))


def test_a_reset_method_that_cannot_be_read_is_not_called_missing() -> None:
    host = told(
        of(GPU, "reset_method"),
        Unavailable(13, "Permission denied"),
        names={gpu().path: ("remove", "reset_method")},
    )
    assert "no-reset" not in codes(host)
    assert "unreadable" in codes(host)


def test_a_bus_reset_that_hits_nothing_else_is_a_reset() -> None:
    host = told(f"{at(gpu(), PORT).path}/reset_method", b"bus\n", port(), at(gpu(), PORT))
    assert "reset-ready" in codes(host)


# ---- others ------------------------------------------------------------------------------------


def test_ids_on_the_command_line_explain_a_device_on_vfio() -> None:
    host = CASES["stray-vfio"][0]
    explained = attrs.evolve(
        host, files={**host.files, "proc/cmdline": b"vfio-pci.ids=10de:2236\n"}
    )
    assert "stray-vfio" not in codes(explained)


@pytest.mark.parametrize(
    ("name", "severity"),
    [("virt-handler", "warning"), ("nvidia-persiste", "info"), ("virtqemud", "info")],
)
def test_a_manager_that_fights_is_a_warning(name: str, severity: str) -> None:
    found = the("manager-running", told("proc/812/comm", f"{name}\n".encode()))
    assert found.severity == severity
    assert (found.remedy is None) == (name == "virtqemud")  # libvirt is no conflict


def test_one_of_a_thing_is_not_several() -> None:
    one = the("driverctl", CASES["driverctl"][0])
    assert "the driver of 1 device at" in one.sentence
    definition = the("mdevctl", CASES["mdevctl"][0])
    assert "keeps 1 definition of" in definition.sentence
    assert "sriov-manage" in (definition.remedy or "")


def test_sriov_manage_is_named_where_there_are_no_vfs() -> None:
    able = the("vgpu-no-vfs", facts(NVIDIA, names=VGPU_MODULES))
    assert "sriov-manage" in (able.remedy or "")
    unable = the("vgpu-no-vfs", facts(gpu("nvidia"), names=VGPU_MODULES))
    assert "sriov-manage" not in (unable.remedy or "")


def test_a_plain_driver_of_nvidia_offers_no_vgpus() -> None:
    version = b"NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May 31\n"
    host = told("proc/driver/nvidia/version", version, NVIDIA, names={"sys/module": ("nvidia",)})
    sentence = the("nvidia-driver", host).sentence
    assert "550.90.07" in sentence
    assert "offers no vGPUs" in sentence


def test_memory_that_may_be_locked_is_said_in_a_readable_unit() -> None:
    assert "may lock 8 MiB" in the("memlock", CASES["memlock"][0]).sentence
    for soft, said in (
        (512, "512 bytes"),
        (16 << 40, "16 TiB"),
        (1023 << 30, "1023 GiB"),
        (2**64 - 1, "16384 PiB"),
    ):
        odd = told("proc/self/limits", f"Max locked memory {soft} {soft} bytes\n".encode())
        assert f"may lock {said}, and" in the("memlock", odd).sentence


@pytest.mark.parametrize("limit", [b"9" * 30, b"x", b"-1"])
def test_a_limit_that_makes_no_sense_is_not_called_none(limit: bytes) -> None:
    host = told("proc/self/limits", b"Max locked memory " + limit + b" 1 bytes\n")
    assert not [code for code in codes(host) if code.startswith("memlock")]


def test_huge_pages_have_a_size_and_may_be_promised() -> None:
    full = MEMINFO % (512, 9) + b"HugePages_Rsvd: 9\n"
    assert (
        "All 512 huge pages of 2 MiB" in the("hugepages-full", told("proc/meminfo", full)).sentence
    )
    other = "sys/kernel/mm/hugepages/hugepages-1048576kB"
    large = {f"{other}/nr_hugepages": b"64\n", f"{other}/free_hugepages": b"64\n"}
    assert (
        "64 huge pages of 1 GiB are reserved, 64 are"
        in the("hugepages", facts(files=large)).sentence
    )
    large[f"{other}/resv_hugepages"] = b"64\n"
    assert "All 64 huge pages of 1 GiB" in the("hugepages-full", facts(files=large)).sentence
    some = the("hugepages", told("proc/meminfo", full.replace(b"Rsvd: 9", b"Rsvd: 8")))
    assert "512 huge pages of 2 MiB are reserved, 1 are free" in some.sentence


def test_a_host_in_order_has_nothing_to_report() -> None:
    assert {finding.severity for finding in examine(ALONE)} == {"ok"}
    assert "512 huge pages" in the("hugepages", told("proc/meminfo", MEMINFO % (512, 9))).sentence


def test_what_lies_behind_a_controller_is_one_with_it() -> None:
    controller = at(device("0000:00:0e.0", "vmd", group=1, class_code=0x010400))
    behind = (at(device(f"10000:e{n}:00.0", "nvme", group=1), "0000:00:0e.0") for n in (1, 2))
    found = the("group-shared", facts(controller, *behind))
    assert "0000:00:0e.0 and all that lies behind it" in found.sentence
    assert "VMD" in (found.remedy or "")
