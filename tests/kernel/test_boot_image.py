"""``vfiohost boot`` on whole systems: who has a device after the host has started.

A guest of these tests starts as a server does, from the initramfs that is on its disk, with the
devices' own drivers in it. Each boot takes most of a minute, so one scenario shows everything.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.kernel.lab import guest
from tests.kernel.lab.boot_images import PRODUCT, BootDisk, nics, prepare_disk, sounds
from tests.kernel.lab.errors import LabUnavailableError
from tests.kernel.lab.vm import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NIC, TWIN_NIC = "0000:01:00.0", "0000:02:00.0"
SOUND, TWIN_SOUND = "0000:00:18.0", "0000:00:19.0"
NIC_PORTS, SOUND_SLOTS = (0x10, 0x11), (0x18, 0x19)
ONE_MORE_PORT = 0x0F
"""In front of the others, so that all buses get a number more."""

APPEND = "root=/dev/vda rw intel_iommu=on systemd.show_status=no"
BOOT_SECONDS = 600.0
WORK_SECONDS = 900.0
OFF_SECONDS = 180.0


@attrs.frozen
class Server:
    """A guest that has started."""

    machine: Machine

    def run(self, *command: str) -> dict[str, Any]:
        done: dict[str, Any] = self.machine.call(guest.run, list(command), within=WORK_SECONDS)
        return done

    def shell(self, line: str) -> str:
        done = self.run("sh", "-euc", line)
        assert done["status"] == 0, done
        return str(done["stdout"])

    def vfiohost(self, *words: str, code: int = 0) -> dict[str, Any]:
        place = f"/opt/{PRODUCT}"
        environment = ("env", f"PYTHONPATH={place}:{place}/site", "PYTHONDONTWRITEBYTECODE=1")
        done = self.run(*environment, "python3", "-m", "vfiohost.cli", *words, "--json")
        assert done["status"] == code, done
        value: dict[str, Any] = json.loads(done["stdout"])
        return value

    def driver(self, address: str) -> str | None:
        found: str | None = self.machine.call(
            guest.readlink, f"/sys/bus/pci/devices/{address}/driver"
        )
        return found

    def override(self, address: str) -> str:
        return self.shell(f"cat /sys/bus/pci/devices/{address}/driver_override").strip()

    def had(self, driver: str, address: str) -> bool:
        """Whether the kernel's log has the driver say anything about a device."""
        return f"{driver} {address}" in self.shell("dmesg")

    def devices(self) -> dict[str, dict[str, Any]]:
        status = self.vfiohost("boot", "status", code=11)["boot_status"]
        return {device["address"]: device for device in status["devices"]}


@contextmanager
def started(disk: BootDisk, *ports: int) -> Iterator[Server]:
    """Start a guest from what is on its disk, and turn it off as one turns off a server."""
    functions = [*nics(*ports), *sounds(*SOUND_SLOTS)]
    with Machine(disk.image(), disk.options(functions), APPEND, BOOT_SECONDS) as machine:
        yield Server(machine)
        machine.submit(guest.run, ["systemctl", "poweroff"])  # its answer may not come
        assert machine.ends(OFF_SECONDS), machine.console()


@pytest.fixture
def disk(generator: str, tmp_path: Path) -> Iterator[BootDisk]:
    try:
        made = prepare_disk(generator, tmp_path)
    except LabUnavailableError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must be able to run the lab: {error}")
        pytest.skip(f"the lab cannot run here: {error}")
    yield made
    made.disk.unlink()  # pytest keeps the folders of its last runs


def test_devices_have_their_drivers_from_the_boot_on(disk: BootDisk) -> None:
    with started(disk, *NIC_PORTS) as server:
        install_what_is_not_early(server)
    with started(disk, *NIC_PORTS) as server:
        check_what_is_not_early(server)
        install_what_is_early(server)
    with started(disk, *NIC_PORTS) as server:
        check_what_is_early(server)
        check_the_event_of_another_device(server)
    with started(disk, ONE_MORE_PORT, *NIC_PORTS) as server:
        check_renumbered_buses(server)
        take_back(server)
    with started(disk, *NIC_PORTS) as server:
        check_that_all_is_as_before(server)


def install_what_is_not_early(server: Server) -> None:
    assert [server.driver(nic) for nic in (NIC, TWIN_NIC)] == ["e1000e"] * 2
    assert [server.driver(sound) for sound in (SOUND, TWIN_SOUND)] == ["snd_hda_intel"] * 2
    assert server.had("e1000e", NIC)
    assert server.had("snd_hda_intel", SOUND)
    (device,) = server.vfiohost("boot", "install", SOUND)["boot"]["devices"]
    assert not device["early"]


def check_what_is_not_early(server: Server) -> None:
    """The initramfs is as it was: the rule on the disk has done it."""
    assert server.driver(SOUND) == "vfio-pci"
    assert not server.had("snd_hda_intel", SOUND)
    assert server.driver(TWIN_SOUND) == "snd_hda_intel"
    assert server.had("snd_hda_intel", TWIN_SOUND)
    assert server.override(TWIN_SOUND) == "(null)"
    assert server.vfiohost("boot", "status")["boot_status"]["initramfs"] is None


def install_what_is_early(server: Server) -> None:
    assert server.driver(NIC) == "e1000e"
    installed = server.vfiohost("boot", "install", NIC)["boot"]
    assert [device["early"] for device in installed["devices"]] == [False, True]
    status = server.vfiohost("boot", "status", code=11)["boot_status"]
    assert status["initramfs"]["verdict"] == "older"
    (command,) = status["initramfs"]["commands"]
    assert installed["commands"] == [command]
    again = server.vfiohost("boot", "install", NIC, "--update-initramfs")["boot"]
    assert {file["change"] for file in again["files"]} == {"keep"}
    assert (again["commands"], again["commands_done"]) == ([], [command])
    status = server.vfiohost("boot", "status", code=11)["boot_status"]
    assert status["initramfs"]["verdict"] == "carries"
    assert status["devices"][1]["verdict"] == "other-driver"  # until the next boot


def check_what_is_early(server: Server) -> None:
    assert [server.driver(device) for device in (NIC, SOUND)] == ["vfio-pci"] * 2
    assert not server.had("e1000e", NIC)
    assert not server.had("snd_hda_intel", SOUND)
    assert server.driver(TWIN_NIC) == "e1000e"
    assert server.had("e1000e", TWIN_NIC)
    assert server.override(TWIN_NIC) == "(null)"
    status = server.vfiohost("boot", "status")["boot_status"]
    assert {file["verdict"] for file in status["files"]} == {"same"}
    assert status["initramfs"]["verdict"] == "carries"


def check_the_event_of_another_device(server: Server) -> None:
    """It sets the override before it loads the driver, but not once udev has come to the device."""
    tag = f"/run/udev/tags/vfiohost/+pci:{NIC}"
    event = f"udevadm trigger --action=add --settle /sys/bus/pci/devices/{TWIN_NIC}"
    server.shell(f"test -e {tag}; modprobe -r e1000e")
    assert server.driver(NIC) == "vfio-pci"
    server.shell(f"echo {NIC} > /sys/bus/pci/drivers/vfio-pci/unbind")
    server.shell(f"echo > /sys/bus/pci/devices/{NIC}/driver_override")
    server.shell(f"rm {tag}; {event}")
    assert server.driver(TWIN_NIC) == "e1000e"
    assert (server.driver(NIC), server.override(NIC)) == (None, "vfio-pci")
    assert not server.had("e1000e", NIC)
    server.shell(f"udevadm trigger --action=add --settle /sys/bus/pci/devices/{NIC}; test -e {tag}")
    assert server.driver(NIC) == "vfio-pci"
    server.shell(f"echo {NIC} > /sys/bus/pci/drivers/vfio-pci/unbind")
    server.shell(f"echo > /sys/bus/pci/devices/{NIC}/driver_override; {event}")
    assert (server.driver(NIC), server.override(NIC)) == (None, "(null)")


def check_renumbered_buses(server: Server) -> None:
    """Three cards of one kind: the new one has the address, the one that was meant the next."""
    assert [server.driver(nic) for nic in (NIC, TWIN_NIC, "0000:03:00.0")] == ["e1000e"] * 3
    assert server.override(NIC) == "(null)"
    found = server.devices()
    assert found[SOUND]["verdict"] == "right"
    assert found[NIC]["verdict"] == "other-device"
    (difference,) = found[NIC]["differences"]
    assert difference.startswith("place devices/pci0000:00/0000:00:0f.0/0000:01:00.0 instead of ")
    assert TWIN_NIC in found[NIC]["elsewhere"]


def take_back(server: Server) -> None:
    removed = server.vfiohost("boot", "remove")["boot"]
    assert {file["change"] for file in removed["files"]} == {"remove"}
    status = server.vfiohost("boot", "status", code=11)["boot_status"]
    assert (status["files"], status["initramfs"]["verdict"]) == ([], "stale")
    server.shell(removed["commands"][0])
    status = server.vfiohost("boot", "status")["boot_status"]
    assert (status["files"], status["initramfs"]) == ([], None)


def check_that_all_is_as_before(server: Server) -> None:
    assert [server.driver(nic) for nic in (NIC, TWIN_NIC)] == ["e1000e"] * 2
    assert [server.driver(sound) for sound in (SOUND, TWIN_SOUND)] == ["snd_hda_intel"] * 2
    assert "vfio" not in server.shell("cut -d' ' -f1 /proc/modules")
    status = server.vfiohost("boot", "status")["boot_status"]
    assert (status["devices"], status["files"]) == ([], [])
