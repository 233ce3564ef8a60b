"""``vfiohost boot`` on whole systems: who has a device after the host has started.

A guest of these tests starts as a server does, from the initramfs that is on its disk, with the
devices' own drivers in it. Each boot takes most of a minute, so one scenario shows everything.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.kernel.lab import guest
from tests.kernel.lab.boot_images import PRODUCT, BootDisk, nics, ports, prepare_disk, sounds
from tests.kernel.lab.errors import LabUnavailableError
from tests.kernel.lab.vm import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

NIC, TWIN_NIC = "0000:01:00.0", "0000:02:00.0"
SOUND, TWIN_SOUND = "0000:00:18.0", "0000:00:19.0"
NIC_PORTS, SOUND_SLOTS = (0x10, 0x11), (0x18, 0x19)
ONE_MORE_PORT = 0x0F
"""In front of the others, so that all buses get a number more."""

CARD_PORTS = (0x10, 0x11)
CARDS = ("0000:01:00.0", "0000:02:00.0")
PLACES = ("path:pci0000:00/10.0/00.0", "path:pci0000:00/11.0/00.0")
DRIVER = f"""
modules=/lib/modules/$(uname -r)/updates
mkdir -p $modules
cp /opt/{PRODUCT}/modules/*.ko $modules/
depmod
printf '%s\\n' 'blacklist nouveau' 'options synthgpu plug=a10,a10' > /etc/modprobe.d/nvidia.conf
printf '%s\\n' synthgpu nvidia > /etc/modules-load.d/nvidia.conf
install -D /opt/{PRODUCT}/tests/kernel/lab/sriov-manage /usr/lib/nvidia/sriov-manage
systemctl restart systemd-modules-load
"""
"""Installs the cards and the stand-in for NVIDIA's driver, which keeps nouveau away."""
PROGRAM = f"""\
#!/bin/sh
export PYTHONPATH=/opt/{PRODUCT}:/opt/{PRODUCT}/site PYTHONDONTWRITEBYTECODE=1
exec python3 -m vfiohost.cli "$@"
"""
"""Installs vfiohost, as far as a service can tell."""
TABLE = """
[[device]]
select = "{place}"
ids = "10de:2236"
driver = "native"
vfs = "all"
vgpus = {{ "A10-12Q" = 2 }}
"""
HOST_FILE = "version = 1\n" + "".join(TABLE.format(place=place) for place in PLACES)

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

    def write(self, path: str, text: str) -> None:
        self.machine.call(guest.write, path, text)

    def vgpus(self) -> list[list[str]]:
        """The card and the type of each vGPU."""
        return sorted(self.machine.call(guest.mdevs).values())

    def state_of(self, unit: str) -> str:
        """How a service has ended, when it has: ``active`` or ``failed``."""
        deadline = time.monotonic() + WORK_SECONDS
        while (state := self.run("systemctl", "is-active", unit)["stdout"].strip()) == "activating":
            assert time.monotonic() < deadline
        return str(state)

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


def started(disk: BootDisk, *slots: int) -> AbstractContextManager[Server]:
    """Start a guest with network cards behind ports in some slots, and sound cards."""
    return started_with(disk, [*nics(*slots), *sounds(*SOUND_SLOTS)])


@contextmanager
def started_with(disk: BootDisk, functions: list[str]) -> Iterator[Server]:
    """Start a guest from what is on its disk, and turn it off as one turns off a server."""
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


def test_vgpus_are_there_after_a_boot(disk: BootDisk) -> None:
    cards = ports(*CARD_PORTS)
    with started_with(disk, cards) as server:
        install_vgpus(server)
    with started_with(disk, cards) as server:
        check_vgpus(server)


def install_vgpus(server: Server) -> None:
    server.shell(DRIVER)
    assert [server.driver(card) for card in CARDS] == ["nvidia", "nvidia"]
    server.write("/usr/bin/vfiohost", PROGRAM)
    server.shell("chmod 755 /usr/bin/vfiohost")
    server.write("/etc/vfiohost/host.toml", HOST_FILE)
    found = server.vfiohost("diff", code=10)["differences"]
    assert [each["subject"] for each in found if each["what"] == "vgpus"] == [*CARDS]
    installed = server.vfiohost("boot", "install", "--host-file")["boot"]
    assert [file["path"] for file in installed["files"]] == ["/etc/systemd/system/vfiohost.service"]
    server.shell("systemctl enable vfiohost.service")
    assert server.vgpus() == []  # all of it is for the next boot


def check_vgpus(server: Server) -> None:
    state = server.state_of("vfiohost.service")
    assert state == "active", server.shell("journalctl -b -u vfiohost.service")
    assert server.vgpus() == [[card, "NVIDIA A10-12Q"] for card in CARDS for _ in range(2)]
    assert server.vfiohost("diff")["differences"] == []
    assert server.vfiohost("boot", "status")["boot_status"]["files"]


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
