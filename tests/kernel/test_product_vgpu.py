"""The vGPUs of a host with two A10 on a real kernel: configurations, the host file, modes."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel.command import as_json, drivers, parameter, vfiohost
from tests.kernel.lab import guest, hoststate, layout, product, vfio_user
from tests.kernel.lab.errors import GuestError

if TYPE_CHECKING:
    from tests.kernel.lab.vm import Machine

# Mediated devices are the same on the other kernels, and each of these takes many seconds.
pytestmark = pytest.mark.flavours("6.12")

FIRST, SECOND = layout.A10S
PCI, MDEVS = "/sys/bus/pci", "/sys/bus/mdev/devices"
FILE, HOST_FILE = "/etc/vfiohost/vgpus.yaml", "/etc/vfiohost/host.toml"
LOCKED = 8
"""The exit code while a helper of the killed command is still at work."""
PATIENCE = 120.0
NOTHING = "nothing to do: the host is so already\n"
OVER = "\n  over: [{devices: all, vgpu-devices: {A10-8Q: 4}}]\n"
"""A configuration that no A10 has room for, put behind the shipped ones."""
A10 = """
[[device]]
select = "{address}"
ids = "10de:2236"
driver = "native"
vfs = "all"
vgpus = {{ "{kind}" = {number} }}
"""
WHOLE_A10 = f"""
[[device]]
select = "{FIRST}"
ids = "10de:2236"
driver = "vfio-pci"
"""


@pytest.fixture
def pair(lab: Machine) -> Machine:
    """A host with two A10 and no other card of NVIDIA's, whose driver has them."""
    listed = lab.call(guest.run, ["lspci", "-Dn", "-d", "10de:"])["stdout"].splitlines()
    for address in (line.split()[0] for line in listed):
        if address not in layout.A10S:
            assert lab.call(guest.store, f"{PCI}/devices/{address}/remove", "1") is None
    lab.call(guest.load, "nvidia")
    return lab


@pytest.fixture
def small_pair(pair: Machine) -> Machine:
    """The same with a few virtual functions: all verbs look at all of them, and take as long."""
    return with_few_vfs(pair)


def with_few_vfs(lab: Machine) -> Machine:
    lab.call(guest.load, "nvidia")
    parameter(lab, "nvidia", "sriov", "1")
    for card in layout.A10S:
        assert lab.call(guest.store, f"{PCI}/devices/{card}/sriov_numvfs", "8") is None
    return lab


@pytest.fixture
def file(lab: Machine) -> str:
    """The configurations that vfiohost ships, and ours."""
    shipped = vfiohost(lab, "vgpu", "config", "default")
    lab.call(guest.write, FILE, shipped.rstrip() + OVER)
    return FILE


def apply(lab: Machine, name: str, exits: int = 0) -> str:
    return vfiohost(lab, "vgpu", "apply", "-f", FILE, "-c", name, exits=exits)


def differs(lab: Machine, *words: str) -> list[tuple[str, str]]:
    """What ``diff`` or ``vgpu assert`` says; its exit code has been looked at."""
    done = lab.call(product.vfiohost, "--json", *words)
    found = json.loads(done["stdout"])["differences"]
    assert done["status"] == (10 if found else 0), done
    return [(each["subject"], each["what"]) for each in found]


def in_config(name: str) -> tuple[str, ...]:
    return ("vgpu", "assert", "-f", FILE, "-c", name)


def say(lab: Machine, kind: str, number: int, *, first: str = A10) -> None:
    """Put the host file in its place: both cards carry so many vGPUs, or the second one alone."""
    tables = (first, A10)
    text = "".join(
        table.format(address=card, kind=kind, number=number)
        for table, card in zip(tables, layout.A10S, strict=True)
    )
    lab.call(guest.write, HOST_FILE, f"version = 1\n{text}")


def vgpus(lab: Machine) -> dict[str, tuple[str, str]]:
    """The card and the type of each vGPU, as the kernel says."""
    found = lab.call(guest.mdevs)
    return {uuid: (card, kind) for uuid, (card, kind) in found.items()}


def count(lab: Machine) -> dict[tuple[str, str], int]:
    return dict(Counter(vgpus(lab).values()))


def made(lab: Machine, before: dict[str, tuple[str, str]]) -> int:
    """How many vGPUs there are that were not there before; the last one may not be whole yet."""
    return len(set(lab.call(guest.listdir, MDEVS)) - before.keys())


def both(kind: str, number: int) -> dict[tuple[str, str], int]:
    return {(card, f"NVIDIA {kind}"): number for card in layout.A10S}


def tree(lab: Machine) -> dict[str, Any]:
    """The host: drivers, functions, groups, mediated devices; and what has been journaled."""
    state: dict[str, Any] = lab.call(hoststate.read, "/")
    return state | {"journal": lab.call(guest.listdir, "/var/lib/vfiohost/journal")}


@pytest.mark.usefixtures("file")
def test_the_shipped_configurations_fill_both_cards(pair: Machine) -> None:
    assert differs(pair, *in_config("default")) == [(card, "vgpus") for card in layout.A10S]
    vfiohost(pair, "validate", "vm-vgpu", exits=11)
    apply(pair, "default")
    assert count(pair) == both("A10-12Q", 2)
    listed = as_json(pair, "vgpu", "list")["vgpus"]
    assert {each["name"]: (each["gpu"], each["type_name"]) for each in listed} == vgpus(pair)
    assert differs(pair, *in_config("default")) == []
    vfiohost(pair, "validate", "vm-vgpu", "--write")
    ready = ["vgpu-devices-ready", "vgpu-manager-ready", "workload-type"]
    assert pair.call(guest.listdir, "/run/nvidia/validations") == ready
    for kind, number in (("A10-4Q", 6), ("A10-8Q", 3)):
        apply(pair, kind)
        assert count(pair) == both(kind, number)
    before = tree(pair)
    assert apply(pair, "A10-8Q") == NOTHING
    assert "[no-room]" in apply(pair, "over", exits=4)
    assert tree(pair) == before


def test_a_host_file_and_what_drifts_from_it(pair: Machine) -> None:
    for kind, number in (("A10-4Q", 6), ("A10-8Q", 3), ("A10-12Q", 2)):
        say(pair, kind, number)
        vfiohost(pair, "apply")
        assert count(pair) == both(kind, number)
    assert differs(pair, "diff") == []
    before = tree(pair)
    assert vfiohost(pair, "apply") == NOTHING
    say(pair, "A10-12Q", 3)
    assert "[no-room]" in vfiohost(pair, "apply", exits=4)
    assert tree(pair) == before
    say(pair, "A10-12Q", 2)
    there = vgpus(pair)
    first, second = (uuid for uuid, (card, _) in there.items() if card == FIRST)
    place = pair.call(guest.run, ["readlink", "-f", f"{MDEVS}/{second}"])["stdout"]
    vf = place.split("/")[-2]
    assert pair.call(guest.store, f"{MDEVS}/{first}/remove", "1") is None
    assert pair.call(guest.store, f"{PCI}/drivers/nvidia/unbind", vf) is None
    assert vgpus(pair).keys() == there.keys() - {first, second}  # with the VF its vGPU has gone
    assert differs(pair, "diff") == [(FIRST, "vgpus")]
    vfiohost(pair, "apply")
    assert count(pair) == both("A10-12Q", 2)
    untouched = {uuid for uuid, (card, _) in there.items() if card == SECOND}
    assert untouched < vgpus(pair).keys()
    assert differs(pair, "diff") == []


def test_one_card_whole_and_the_other_in_parts(pair: Machine) -> None:
    say(pair, "A10-12Q", 2, first=WHOLE_A10)
    vfiohost(pair, "apply")
    in_parts = {(SECOND, "NVIDIA A10-12Q"): 2}
    assert drivers(pair, *layout.A10S) == ["vfio-pci", "nvidia"]
    assert count(pair) == in_parts
    assert differs(pair, "diff") == []
    vfiohost(pair, "mode", "container", FIRST)
    assert differs(pair, "diff") == [(FIRST, "driver")]
    vfiohost(pair, "mode", "vm-passthrough", FIRST)
    assert differs(pair, "diff") == []
    assert count(pair) == in_parts
    assert "[mdevs-exist]" in vfiohost(pair, "mode", "vm-passthrough", SECOND, exits=4)
    assert count(pair) == in_parts


@pytest.mark.usefixtures("file")
def test_a_vgpu_that_a_guest_has_stays(small_pair: Machine) -> None:
    lab = small_pair
    apply(lab, "default")
    taken, other, *_ = vgpus(lab)
    assert lab.call(vfio_user.open_device, taken, only_group=True, worker="qemu") == "ok"
    before = tree(lab)
    said = apply(lab, "A10-8Q", exits=4)
    assert "[in-use]" in said
    assert taken in said
    assert "[in-use]" in vfiohost(lab, "vgpu", "remove", taken, exits=4)
    assert tree(lab) == before
    assert lab.call(guest.store, f"{MDEVS}/{other}/remove", "1") is None
    apply(lab, "default")  # which needs nothing of the one that is in use
    assert count(lab) == both("A10-12Q", 2)
    assert taken in vgpus(lab)
    lab.kill("qemu")
    apply(lab, "A10-8Q")
    assert count(lab) == both("A10-8Q", 3)


@pytest.mark.usefixtures("file")
def test_a_kill_in_the_middle_is_recovered_from(small_pair: Machine) -> None:
    lab = small_pair
    apply(lab, "A10-8Q")
    before = vgpus(lab)
    parameter(lab, "nvidia", "create_ms", "2000")
    change = lab.submit(
        product.vfiohost, "vgpu", "apply", "-f", FILE, "-c", "A10-4Q", worker="victim"
    )
    deadline = time.monotonic() + PATIENCE
    while made(lab, before) < 3:  # two at once, one on each card
        assert time.monotonic() < deadline
    listed = lab.submit(product.vfiohost, "vgpu", "list", worker="looker")
    most = sum(both("A10-4Q", 6).values()) - 4
    while not listed.done(0.05) and made(lab, before) < most:
        pass  # a slow look must not outlast what it looks at
    lab.kill("victim")
    assert "A10-4Q" in listed.result()["stdout"]  # one that is not whole yet disturbs nobody
    with pytest.raises(GuestError, match="status -9"):
        change.result()
    assert made(lab, before) < sum(both("A10-4Q", 6).values())
    parameter(lab, "nvidia", "create_ms", "0")
    while (done := lab.call(product.vfiohost, "recover"))["status"] == LOCKED:
        assert time.monotonic() < deadline
    assert done["status"] == 0, done
    assert vgpus(lab) == before
    assert vfiohost(lab, "recover") == "nothing to recover\n"


@pytest.mark.usefixtures("file")
def test_cards_of_several_kinds(lab: Machine) -> None:
    """The default has something for each card that carries vGPUs, and the others are named."""
    with_few_vfs(lab)
    apply(lab, "default")
    assert count(lab) == both("A10-12Q", 2) | {(layout.T4, "GRID T4-8Q"): 2}
    listed = as_json(lab, "vgpu", "list", layout.L40S)["vgpus"]  # without mediated devices
    assert [each["type_name"] for each in listed] == ["NVIDIA L40S-24Q"] * 2
    uncovered = [layout.RTX3090[0], layout.RTX2080[0]]
    assert differs(lab, *in_config("default")) == [(card, "vgpus") for card in uncovered]
