"""What identifies a machine does not get into a recording, and everything else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfiohost.record.masking import mask_cmdline, mask_config

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


# ---- the configuration space -------------------------------------------------------------------

SERIAL = bytes.fromhex("0123456789abcdef")


def space(
    extended: dict[int, tuple[int, int, bytes]], standard: dict[int, tuple[int, int, bytes]]
) -> bytes:
    """A configuration space: at each offset a capability's id, the next one, and what follows."""
    config = bytearray(b"\xa5" * 4096)
    config[0x06] = 0x10
    config[0x0E] = 0
    config[0x34] = min(standard, default=0)
    config[0x100:0x104] = bytes(4)
    for offset, (number, following, content) in standard.items():
        config[offset : offset + 2 + len(content)] = bytes([number, following]) + content
    for offset, (number, following, content) in extended.items():
        header = (number | 1 << 16 | following << 20).to_bytes(4, "little")
        config[offset : offset + 4 + len(content)] = header + content
    return bytes(config)


def zeroed(config: bytes, offset: int, size: int) -> bytes:
    return config[:offset] + bytes(size) + config[offset + size :]


def test_the_serial_number_is_zeroed_and_nothing_else() -> None:
    config = space(
        {
            0x100: (0x0001, 0x148, b""),
            0x148: (0x0003, 0x158, SERIAL),
            0x158: (0x000B, 0xFF0, SERIAL),
            0xFF0: (0x0003, 0, SERIAL),
        },
        {},
    )
    assert mask_config(config) == zeroed(zeroed(config, 0x14C, 8), 0xFF4, 8)


def test_vital_product_data_that_stand_in_their_register_are_zeroed() -> None:
    config = space({}, {0x40: (0x01, 0x60, b""), 0x60: (0x03, 0, b"\x04\x80SN12")})
    assert mask_config(config) == zeroed(config, 0x64, 4)
    cardbus = bytearray(config)
    cardbus[0x0E], cardbus[0x34], cardbus[0x14] = 0x82, 0, 0x43
    assert mask_config(bytes(cardbus)) == zeroed(bytes(cardbus), 0x64, 4)
    without = bytearray(config)
    without[0x06] = 0
    assert mask_config(bytes(without)) == without


@pytest.mark.parametrize(
    ("extended", "masked"),
    [
        ({0x100: (0x0003, 0x100, SERIAL)}, [0x104]),
        ({0x100: (0x0001, 0x200, b""), 0x200: (0x0003, 0x100, SERIAL)}, [0x204]),
        ({0x100: (0x0003, 0x0FC, SERIAL)}, [0x104]),
        ({0x100: (0x0000, 0x200, b""), 0x200: (0x0003, 0, SERIAL)}, [0x204]),
        ({0x100: (0x0001, 0xFFC, b""), 0xFFC: (0x0003, 0x100, b"")}, []),
        ({0x100: (0xFFFF, 0xFFF, b"")}, []),
    ],
    ids=["to itself", "in a circle", "into the header", "hidden", "at the end", "all ones"],
)
def test_a_chain_that_makes_no_sense(
    extended: dict[int, tuple[int, int, bytes]], masked: list[int]
) -> None:
    config = space(extended, {})
    expected = config
    for offset in masked:
        expected = zeroed(expected, offset, 8)
    assert mask_config(config) == expected


def test_a_standard_chain_that_makes_no_sense() -> None:
    for following in (0x40, 0x00, 0x3C, 0xFC, 0x01):
        config = space({}, {0x40: (0x03, following, b"\x04\x80SN12")})
        assert mask_config(config)[0x44:0x48] == bytes(4)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 255, 256, 257, 259, 260, 263, 4095, 4096, 9000])
def test_any_length(size: int) -> None:
    config = space({0x100: (0x0003, 0, SERIAL)}, {0x40: (0x03, 0, b"\x04\x80SN12")})
    config = (config + config + config)[:size]
    expected = zeroed(config, 0x44, 4) if size >= 0x48 else config
    if size >= 0x104:
        expected = zeroed(expected, 0x104, min(8, size - 0x104))
    assert mask_config(config) == expected


@given(st.binary(max_size=4096))
def test_only_zeros_come_in(config: bytes) -> None:
    masked = mask_config(config)
    assert len(masked) == len(config)
    assert all(new in (old, 0) for old, new in zip(config, masked, strict=True))
