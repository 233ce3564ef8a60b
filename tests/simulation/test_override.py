"""Edge cases 15 to 22: driver_override."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.simulation.hosts import NIC, NVME, NVME_VFS, QAT, Shell, answers, small_host
from vfiohost import testing
from vfiohost.errors import StoreTimeoutError

if TYPE_CHECKING:
    from pathlib import Path

OVERRIDE = f"sys/bus/pci/devices/{NIC}/driver_override"
NVME_OVERRIDE = f"sys/bus/pci/devices/{NVME}/driver_override"


def test_15_null_is_what_unset_reads_as_and_can_be_stored(host: Shell) -> None:
    assert host.cat(OVERRIDE) == "(null)"
    host.override(NIC, "vfio-pci")
    assert host.cat(OVERRIDE) == "vfio-pci"
    host.override(NIC, "(null)")
    assert host.cat(OVERRIDE) == "(null)"


def test_15_a_stored_null_is_a_name_that_no_driver_has(host: Shell) -> None:
    driver = host.driver(NIC)
    assert driver is not None
    host.unbind(driver, NIC)
    host.override(NIC, "(null)")
    with answers("ENODEV"):
        host.bind(driver, NIC)
    host.override(NIC, "\n")
    host.bind(driver, NIC)
    assert host.driver(NIC) == driver


def test_16_an_empty_write_has_no_effect(host: Shell) -> None:
    host.override(NIC, "vfio-pci")
    host.override(NIC, "")
    assert host.cat(OVERRIDE) == "vfio-pci"


@pytest.mark.parametrize("value", ["\n", "\0", "\nvfio-pci", "\0vfio-pci"])
def test_16_a_newline_or_a_nul_clears(host: Shell, value: str) -> None:
    host.override(NIC, "vfio-pci")
    host.override(NIC, value)
    assert host.cat(OVERRIDE) == "(null)"


def test_17_4094_bytes_are_taken_and_4095_are_not(host: Shell) -> None:
    host.override(NIC, "x" * 4094)
    assert host.cat(OVERRIDE) == "x" * 4094
    for length in (4095, 4096, 5000):
        with answers("EINVAL"):
            host.override(NIC, "y" * length)
    assert host.cat(OVERRIDE) == "x" * 4094


def test_18_text_after_a_newline_is_dropped_and_spaces_are_kept(host: Shell) -> None:
    host.override(NIC, "vfio-pci\nnouveau\n")
    assert host.cat(OVERRIDE) == "vfio-pci"
    host.unbind("e1000e", NIC)
    host.override(NIC, "vfio-pci \n")
    assert host.cat(OVERRIDE) == "vfio-pci "
    with answers("ENODEV"):
        host.bind("vfio-pci", NIC)


def test_19_clearing_or_changing_while_bound_leaves_the_binding(host: Shell) -> None:
    host.to_vfio(NIC)
    host.override(NIC, "\n")
    assert host.driver(NIC) == "vfio-pci"
    host.override(NIC, "e1000e")
    assert host.driver(NIC) == "vfio-pci"


def test_20_an_override_that_names_no_loaded_driver_leaves_it_unbound(host: Shell) -> None:
    host.unbind("e1000e", NIC)
    host.override(NIC, "none")
    host.probe(NIC)
    assert host.driver(NIC) is None


def test_21_an_override_is_lost_when_a_vf_is_made_again(host: Shell) -> None:
    vf = NVME_VFS[0]
    host.numvfs(NVME, "1")
    host.to_vfio(vf)
    host.unbind("vfio-pci", vf)
    host.numvfs(NVME, "0")
    host.numvfs(NVME, "1")
    assert host.cat(f"sys/bus/pci/devices/{vf}/driver_override") == "(null)"
    assert host.driver(vf) == "nvme"


def test_22_not_root_is_eacces_at_open(host: Shell) -> None:
    host.kernel.refuse("*/driver_override", errno.EACCES, op="open")
    with answers("EACCES", "open"):
        host.override(NIC, "vfio-pci")
    assert host.cat(OVERRIDE) == "(null)"


def test_a_name_that_is_no_utf_8_is_kept_byte_for_byte(host: Shell, root: Path) -> None:
    host.override(NIC, os.fsdecode(b"\xff\xfe"))
    assert (root / OVERRIDE).read_bytes() == b"\xff\xfe\n"


def test_an_attribute_that_nobody_may_write_is_eacces_at_open_even_for_root(host: Shell) -> None:
    with answers("EACCES", "open"):
        host.echo("0x10de", f"sys/bus/pci/devices/{NIC}/vendor")


def test_an_attribute_that_the_simulation_does_not_know_is_eio(host: Shell) -> None:
    with answers("EIO"):
        host.echo("1", f"sys/bus/pci/devices/{NIC}/enable")


def test_before_6_12_the_override_waits_for_the_device_lock(scratch: Path) -> None:
    host = Shell(testing.create(small_host("6.1.0-37-amd64"), scratch / "host"))
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME):
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", NVME, timeout=0)
        with pytest.raises(StoreTimeoutError):
            host.echo("\n", NVME_OVERRIDE, timeout=0)
        with answers("EAGAIN", "open"):
            host.cat(NVME_OVERRIDE)
    assert host.cat(NVME_OVERRIDE) == "(null)"


def test_since_6_12_it_does_not(host: Shell) -> None:
    host.to_vfio(NVME)
    with host.kernel.open_device(NVME):
        with pytest.raises(StoreTimeoutError):
            host.unbind("vfio-pci", NVME, timeout=0)
        host.override(NVME, "\n")
        assert host.cat(NVME_OVERRIDE) == "(null)"


def test_an_unset_override_matches_nothing_but_the_id_table(host: Shell) -> None:
    host.probe(QAT)
    assert host.driver(QAT) is None
