"""Edge cases 23 to 25: new_id and remove_id."""

from __future__ import annotations

import pytest

from tests.simulation.hosts import NIC, NIC_SIBLING, QAT, Shell, answers

VFIO_NEW = "sys/bus/pci/drivers/vfio-pci/new_id"
VFIO_REMOVE = "sys/bus/pci/drivers/vfio-pci/remove_id"


@pytest.mark.parametrize("value", ["8086", "garbage", "8086:10d3", "10de2236", "\n", "0x"])
def test_23_one_field_or_garbage_is_einval(host: Shell, value: str) -> None:
    with answers("EINVAL"):
        host.echo(value, VFIO_NEW)
    with answers("EINVAL"):
        host.echo(value, VFIO_REMOVE)


def test_23_an_id_twice_is_eexist(host: Shell) -> None:
    host.echo("8086 37c8", VFIO_NEW)
    with answers("EEXIST"):
        host.echo("8086 37c8", VFIO_NEW)


def test_23_an_id_of_the_static_table_is_eexist(host: Shell) -> None:
    with answers("EEXIST"):
        host.echo("8086 10d3", "sys/bus/pci/drivers/e1000e/new_id")


def test_23_an_unknown_driver_data_is_einval(host: Shell) -> None:
    with answers("EINVAL"):
        host.echo("8086 37c8 ffffffff ffffffff 0 0 5", VFIO_NEW)
    host.echo("8086 37c8 ffffffff ffffffff 0 0 0", VFIO_NEW)


def test_24_new_id_binds_every_free_device_with_that_id(host: Shell) -> None:
    for address in (NIC, NIC_SIBLING):
        host.unbind("e1000e", address)
    host.echo("8086 10d3\n", VFIO_NEW)
    assert (host.driver(NIC), host.driver(NIC_SIBLING)) == ("vfio-pci", "vfio-pci")


def test_24_an_override_protects_a_device(host: Shell) -> None:
    for address in (NIC, NIC_SIBLING):
        host.unbind("e1000e", address)
    host.override(NIC_SIBLING, "none")
    host.echo("0x8086 0x10d3", VFIO_NEW)
    assert (host.driver(NIC), host.driver(NIC_SIBLING)) == ("vfio-pci", None)


def test_24_a_bound_device_stays_and_a_denied_one_is_refused_silently(host: Shell) -> None:
    host.echo("8086 10d3", VFIO_NEW)
    host.echo("8086 37c8", VFIO_NEW)
    assert (host.driver(NIC), host.driver(QAT)) == ("e1000e", None)


def test_24_subsystem_and_class_narrow_an_id(host: Shell) -> None:
    host.unbind("e1000e", NIC)
    host.echo("8086 10d3 8086 0002", VFIO_NEW)
    host.echo("8086 10d3 ffffffff ffffffff 030000 ff0000", VFIO_NEW)
    assert host.driver(NIC) is None
    host.echo("8086 10d3 8086 0001 020000 ff0000", VFIO_NEW)
    assert host.driver(NIC) == "vfio-pci"


def test_25_remove_id_of_an_unknown_id_is_enodev(host: Shell) -> None:
    with answers("ENODEV"):
        host.echo("8086 10d3", VFIO_REMOVE)


def test_25_remove_id_does_not_unbind_and_a_living_id_takes_the_device_back(host: Shell) -> None:
    host.unbind("e1000e", NIC)
    host.echo("8086 10d3", VFIO_NEW)
    host.unbind("vfio-pci", NIC)
    host.echo("0", "sys/bus/pci/drivers_autoprobe")
    host.bind("vfio-pci", NIC)
    host.echo("8086 10d3", VFIO_REMOVE)
    assert host.driver(NIC) == "vfio-pci"
    with answers("ENODEV"):
        host.echo("8086 10d3", VFIO_REMOVE)
    host.unbind("vfio-pci", NIC)
    with answers("ENODEV"):
        host.bind("vfio-pci", NIC)
