"""What is left of NVIDIA's types of mediated devices, on cards and on virtual functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.hosts import UUID, Shell, answers
from vfiohost import testing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A10 = "0000:65:00.0"


def uuids(count: int) -> Iterator[str]:
    return (f"00000000-0000-4000-8000-{number:012x}" for number in range(count))


def types_of(host: Shell, parent: str) -> dict[str, int]:
    """All types of a parent with what is left of each."""
    types = host.ls(f"sys/class/mdev_bus/{parent}/mdev_supported_types")
    return {each: host.available(parent, each) for each in types}


def max_instance(host: Shell, parent: str, type_id: str) -> int:
    text = host.cat(f"sys/class/mdev_bus/{parent}/mdev_supported_types/{type_id}/description")
    return int(text.rpartition("max_instance=")[2])


@pytest.mark.parametrize(
    ("type_id", "most"), [("nvidia-222", 16), ("nvidia-232", 4), ("nvidia-234", 1)]
)
def test_types_of_a_card_before_sriov(scratch: Path, type_id: str, most: int) -> None:
    host = Shell(testing.create(testing.load("t4-v100-vgpu"), scratch / "host"))
    parents = host.ls("sys/class/mdev_bus")
    card = next(each for each in parents if type_id in types_of(host, each))
    (other,) = set(parents) - {card}
    first = {each: types_of(host, each) for each in parents}
    assert all(left == max_instance(host, card, each) for each, left in first[card].items())
    for number, uuid in enumerate(uuids(most), 1):
        host.create(card, type_id, uuid)
        left = types_of(host, card)
        assert left.pop(type_id) == most - number
        assert set(left.values()) == {0}
    with answers("EUSERS"):
        host.create(card, type_id, UUID)
    assert types_of(host, other) == first[other]
    for uuid in uuids(most):
        host.remove(uuid)
    assert {each: types_of(host, each) for each in parents} == first


@pytest.mark.parametrize(
    ("type_id", "most"), [("nvidia-588", 24), ("nvidia-595", 3), ("nvidia-597", 1)]
)
def test_types_of_virtual_functions(scratch: Path, type_id: str, most: int) -> None:
    host = Shell(testing.create(testing.load("a10-pair-vgpu"), scratch / "host"))
    vfs = [vf for vf in host.ls("sys/class/mdev_bus") if vf.startswith(A10[:8])]
    stranger = next(vf for vf in host.ls("sys/class/mdev_bus") if vf not in vfs)
    sample = [vfs[0], vfs[-1]]
    assert len(vfs) == 32
    assert max_instance(host, vfs[0], type_id) == most
    assert all(set(types_of(host, vf).values()) == {1} for vf in sample)
    for vf, uuid in zip(vfs, uuids(most), strict=False):
        host.create(vf, type_id, uuid)
    assert host.available(vfs[0], type_id) == 0
    assert set(types_of(host, vfs[-1]).values()) == {0}
    with answers("EUSERS"):
        host.create(vfs[-1], type_id, UUID)
    assert set(types_of(host, stranger).values()) == {1}
    host.remove(next(uuids(1)))
    if most > 1:  # the type of those that are left, and no other
        assert {each for each, left in types_of(host, vfs[-1]).items() if left} == {type_id}
    for uuid in list(uuids(most))[1:]:
        host.remove(uuid)
    assert all(set(types_of(host, vf).values()) == {1} for vf in sample)
