"""vGPUs without mediated devices on a real kernel: virtual functions of an L40S."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kernel.command import as_json, parameter, vfiohost
from tests.kernel.lab import guest, layout, vfio_user

if TYPE_CHECKING:
    from tests.kernel.lab.vm import Machine

# NVIDIA's driver makes them from Linux 6.8 on.
pytestmark = pytest.mark.flavours("6.12", "iommufd")

GPU = layout.L40S
VFS = layout.L40S_VFS
DEVICES = "/sys/bus/pci/devices"
CURRENT, CREATABLE = "current_vgpu_type", "creatable_vgpu_types"
Q12, Q24 = "1153", "1155"
CONFIG = "/run/vgpu-config.yaml"
FILE = """\
version: v1
vgpu-configs:
  default:
    - device-filter: "0x26B910DE"
      devices: all
      vgpu-devices: {"L40S-24Q": 2}
    - device-filter: ["0x223610DE", "0x220410DE", "0x1E8710DE", "0x1EB810DE"]
      devices: all
      vgpu-devices: {}
  none:
    - device-filter: "0x26B910DE"
      devices: all
      vgpu-devices: {}
"""


@pytest.fixture
def with_vfs(lab: Machine) -> Machine:
    """The machine with all virtual functions of the card."""
    lab.call(guest.load, "nvidia")
    vfiohost(lab, "vf", "set", GPU, "all")
    return lab


def current(lab: Machine) -> list[str]:
    """The types of the first virtual functions."""
    return [lab.call(guest.read, f"{DEVICES}/{vf}/nvidia/{CURRENT}").rstrip() for vf in VFS]


def creatable(lab: Machine, vf: str) -> list[str]:
    """The ids that a virtual function lists."""
    _header, *lines = lab.call(guest.read, f"{DEVICES}/{vf}/nvidia/{CREATABLE}").splitlines()
    return [line.split()[0] for line in lines]


def test_types_are_those_of_sysfs(with_vfs: Machine) -> None:
    (gpu,) = as_json(with_vfs, "vgpu", "types", GPU)["gpus"]
    assert (gpu["backend"], gpu["framebuffer_mib"], gpu["vgpus"]) == ("vfio-vf", 48 << 10, [])
    assert gpu["places"][: len(VFS)] == list(VFS)
    assert [each["type_id"] for each in gpu["types"]] == creatable(with_vfs, VFS[0])
    most = {each["type_id"]: each["max_instances"] for each in gpu["types"]}
    assert (most["1147"], most[Q12], most[Q24], most["1156"]) == (len(gpu["places"]), 4, 2, 1)


def test_vgpus_of_an_l40s_until_it_is_full(with_vfs: Machine) -> None:
    create = ("vgpu", "create", "-g", GPU, "-t")
    made = vfiohost(with_vfs, *create, "L40S-24Q", "-n", "2").splitlines()
    assert [line.split()[:5] for line in made] == [
        [vf, "of", GPU, "NVIDIA", "L40S-24Q"] for vf in VFS[:2]
    ]
    assert current(with_vfs) == [Q24, Q24, "0", "0", "0"]
    assert creatable(with_vfs, VFS[2]) == []
    assert "[no-room]" in vfiohost(with_vfs, *create, "L40S-24Q", exits=4)
    listed = as_json(with_vfs, "vgpu", "list")["vgpus"]
    assert [(each["name"], each["type_id"]) for each in listed] == [(vf, Q24) for vf in VFS[:2]]
    vfiohost(with_vfs, "vgpu", "remove", VFS[0])
    assert creatable(with_vfs, VFS[0]) == [Q24]
    assert "[no-room]" in vfiohost(with_vfs, *create, "L40S-12Q", exits=4)
    vfiohost(with_vfs, *create, Q24)
    vfiohost(with_vfs, "vgpu", "remove", *VFS[:2])
    assert current(with_vfs) == ["0"] * len(VFS)


def test_vgpu_that_is_open_stays(with_vfs: Machine) -> None:
    vfiohost(with_vfs, "vgpu", "create", "-g", GPU, "-t", "L40S-24Q")
    assert with_vfs.call(vfio_user.open_device, VFS[0], worker="guest") == "ok"
    assert "[in-use]" in vfiohost(with_vfs, "vgpu", "remove", VFS[0], exits=4)
    said = vfiohost(with_vfs, "vgpu", "remove", VFS[0], "--allow", "vfio-user", exits=1)
    assert "(EBUSY)" in said
    assert current(with_vfs)[0] == Q24
    with_vfs.call(vfio_user.close, worker="guest")
    vfiohost(with_vfs, "vgpu", "remove", VFS[0])
    assert current(with_vfs)[0] == "0"


def test_creation_that_the_driver_refuses_leaves_nothing(with_vfs: Machine) -> None:
    parameter(with_vfs, "nvidia", "create_errno", "5")
    said = vfiohost(with_vfs, "vgpu", "create", "-g", GPU, "-t", "L40S-12Q", "-n", "2", exits=1)
    assert "(EIO)" in said
    assert current(with_vfs) == ["0"] * len(VFS)


def test_vgpus_of_a_file_with_the_virtual_functions_that_they_need(lab: Machine) -> None:
    lab.call(guest.load, "nvidia")
    assert lab.call(guest.run, ["tee", CONFIG], FILE)["status"] == 0
    apply, check = (("vgpu", verb, "-f", CONFIG, "-c") for verb in ("apply", "assert"))
    vfiohost(lab, *check, "default", exits=10)
    vfiohost(lab, *apply, "default")
    assert current(lab) == [Q24, Q24, "0", "0", "0"]
    vfiohost(lab, *check, "default")
    assert "nothing to do" in vfiohost(lab, *apply, "default")
    vfiohost(lab, *apply, "none")
    assert current(lab) == ["0"] * len(VFS)
