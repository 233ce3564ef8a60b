"""Of the kernel's command line only known settings get into a recording."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiohost.record import command_line
from vfiohost.record.command_line import mask_cmdline

UUID = "0b8e6b1f-6c1f-4d0a-9f0e-5f7b3a1c2d3e"
MAC = "52:54:00:12:ab:CD"

LINES = [
    (f"BOOT_IMAGE=/boot/vmlinuz-{UUID} root=UUID={UUID} ro", "BOOT_IMAGE=MASKED root=MASKED ro"),
    ("quiet intel_iommu=on,sm_on iommu=pt", "quiet intel_iommu=on,sm_on iommu=pt"),
    ("amd_iommu=on iommu.passthrough=1", "amd_iommu=on iommu.passthrough=1"),
    ("vfio-pci.ids=10de:2236,10de:1aef,8086:1521", "vfio-pci.ids=10de:2236,10de:1aef,8086:1521"),
    (
        "vfio_pci.disable_vga=1 pci-stub.ids=10de:0e0f",
        "vfio_pci.disable_vga=1 pci-stub.ids=10de:0e0f",
    ),
    (
        "pci=realloc,noats pcie_acs_override=downstream",
        "pci=realloc,noats pcie_acs_override=downstream",
    ),
    ("modprobe.blacklist=nouveau rd.driver.blacklist=nouveau", None),
    ("module_blacklist=nouveau nouveau.modeset=0 video=efifb:off", None),
    ("kvm.ignore_msrs=1 hugepagesz=1G hugepages=64", None),
    ("ip=10.0.0.7::10.0.0.1:255.255.255.0:myhost:eth0:off", "ip=MASKED"),
    (f"ifname=eth0:{MAC} BOOTIF=01-{MAC.replace(':', '-')}", "ifname=MASKED BOOTIF=MASKED"),
    (f"netconsole.netconsole=@10.0.0.2/eth0,@10.0.0.9/{MAC}", "netconsole.netconsole=MASKED"),
    ("hostname=secret systemd.hostname=secret", "hostname=MASKED systemd.hostname=MASKED"),
    ("myhost emergency", "MASKED MASKED"),
    (f"nvidia.NVreg_ExcludedGpus=GPU-{UUID}", "nvidia.NVreg_ExcludedGpus=MASKED"),
    (f"nvidia.NVreg_X={MAC}", "nvidia.NVreg_X=MASKED"),
    ("pciehp.x=192.168.1.1", "pciehp.x=MASKED"),
    ("nvidia.NVreg_RegistryDwords=acme=7", "nvidia.NVreg_RegistryDwords=MASKED"),
    ("nvme.host_id=acme-7 xhci_hcd.quirks=7", "nvme.host_id=MASKED xhci_hcd.quirks=MASKED"),
    (
        "mdev.acme=1 vfio_pci.acme=1 kvm.acme=s",
        "mdev.acme=MASKED vfio_pci.acme=MASKED kvm.acme=MASKED",
    ),
    ("vfio-pci.ids=acme,10de:2236", "vfio-pci.ids=MASKED"),
    ("vfio-pci.disable_vga=acme", "vfio-pci.disable_vga=MASKED"),
    (
        "video=HDMI-A-1:acme.fw video=efifb:off,vesafb:off",
        "video=MASKED video=efifb:off,vesafb:off",
    ),
    (
        "hugepages=acme hugepages=0:4,1:8 hugepagesz=1Gacme",
        "hugepages=MASKED hugepages=0:4,1:8 hugepagesz=MASKED",
    ),
    (
        "iommu=Acme-7 lockdown=integrity mitigations=auto,nosmt",
        "iommu=MASKED lockdown=integrity mitigations=auto,nosmt",
    ),
    ("pci=resource_alignment=20@0000:01:00.0;pci:8086:9c22,realloc=on", None),
    ("pci=acme@host.example/x pci=ACME", "pci=MASKED pci=MASKED"),
    (
        "nointremap intremap=off quiet=acme nosmt=force nosmt",
        "nointremap intremap=off quiet=MASKED nosmt=force nosmt",
    ),
    ("nointremapped passw0rd", "MASKED MASKED"),
    (
        'vfio-pci.ids="10de:2236" modprobe.blacklist="a b"',
        'vfio-pci.ids="10de:2236" modprobe.blacklist=MASKED',
    ),
    (f"{MAC}=x {UUID}=y", "MASKED MASKED"),
    ('dyndbg="file a.c +p; b" quiet "root=a b" ro', "dyndbg=MASKED quiet MASKED ro"),
    ('dyndbg="never closed quiet', "dyndbg=MASKED"),
    ("quiet -- --addr 10.0.0.1 token", "quiet -- MASKED"),
    ("quiet -- ", "quiet -- "),
    ("  ro\tquiet  a=b ", "  ro\tquiet  a=MASKED "),
    ("", ""),
]


@pytest.mark.parametrize(("line", "masked"), LINES)
def test_a_command_line(line: str, masked: str | None) -> None:
    expected = line if masked is None else masked
    assert mask_cmdline(f"{line}\n".encode()) == f"{expected}\n".encode()
    assert mask_cmdline(line.encode()) == expected.encode()


@given(st.binary(max_size=200) | st.text('ab="- \n:0.x', max_size=60).map(str.encode))
def test_masking_a_line_again_changes_nothing(line: bytes) -> None:
    masked = mask_cmdline(line)
    assert mask_cmdline(masked) == masked


@given(st.from_regex(rf"(?:[a-z.]{{1,9}}[= ]){{0,2}}{UUID}[a-z ]{{0,4}}", fullmatch=True))
def test_no_uuid_stays(line: str) -> None:
    assert UUID.encode() not in mask_cmdline(line.encode())


# What the checks of `vfiohost doctor` ask of the line: `options`, `words` and `saw_words`.
ASKED = (
    "iommu=pt iommu=off intel_iommu=on intel_iommu=on,sm_on intel_iommu=off amd_iommu=off "
    "amd_iommu=on amd_iommu=pgtbl_v2 intremap=off nointremap video=efifb:off "
    "pcie_acs_override=downstream,multifunction,id:8086:a110 vfio-pci.ids=10de:2236,10DE:1AEF "
    "vfio_pci.ids=10de:2236:10de:1482:030000:ffff00"
)


@pytest.mark.parametrize("word", ASKED.split())
def test_what_doctor_looks_at_stays(word: str) -> None:
    assert mask_cmdline(word.encode()) == word.encode()


@given(st.from_regex(r"[A-Za-z0-9_.-]{1,20}(=[!-~]{0,20})?", fullmatch=True))
def test_a_value_stays_only_where_a_setting_is_known(word: str) -> None:
    name = word.partition("=")[0].replace("-", "_")
    if name.encode() not in command_line._KEPT:
        assert set(mask_cmdline(word.encode()).replace(b"=", b" ").split()) <= {
            b"MASKED",
            word.partition("=")[0].encode(),
        }
