"""Plans that build on each other: all of them, or none."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from vfiohost import ApplyError, Host, PciAddress, PlanRefused, RollbackError
from vfiohost.errors import Refusal
from vfiohost.render.failures import failure_lines, message_of
from vfiohost.testing import SimulatedKernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.face.support import Maker
    from vfiohost import Plan
    from vfiohost.model import Snapshot

FIRST, SECOND = (PciAddress.parse(text) for text in ("65:00.0", "ca:00.0"))


@pytest.fixture
def host(simulated: Maker) -> Iterator[Host]:
    root = simulated("a10-pair-nouveau")
    with Host(root, kernel=SimulatedKernel(root)) as opened:
        yield opened


def binding(host: Host, address: PciAddress) -> Callable[[Snapshot], Plan]:
    return lambda snapshot: host.plan_bind([address], snapshot=snapshot)


def drivers(host: Host) -> list[object]:
    pci = host.scan().pci
    return [pci[FIRST].driver, pci[SECOND].driver]


def refuse(_: Snapshot) -> Plan:
    raise PlanRefused([Refusal("full", "65:00.0", "There is no room.", "Make room.")])


def test_each_plan_is_made_when_those_before_it_are_done(host: Host) -> None:
    seen = []

    def look(snapshot: Snapshot) -> Plan:
        seen.append(snapshot.pci[FIRST].driver)
        return host.plan_bind([SECOND], snapshot=snapshot)

    reports = host.apply_stages([binding(host, FIRST), look], "two cards")
    assert seen == ["vfio-pci"]
    assert drivers(host) == ["vfio-pci", "vfio-pci"]
    assert all(report.journal_id for report in reports)
    assert host.last_done().id == reports[-1].journal_id


def test_what_was_done_before_a_refusal_is_taken_back(host: Host) -> None:
    with pytest.raises(PlanRefused) as refused:
        host.apply_stages([binding(host, FIRST), binding(host, SECOND), refuse], "three")
    assert drivers(host) == ["nouveau", "nouveau"]
    assert failure_lines(refused.value)[-1] == (
        "What was done before it was taken back: bind 0000:65:00.0 and bind 0000:ca:00.0."
    )


def test_what_was_done_before_a_failure_is_taken_back(host: Host) -> None:
    SimulatedKernel(host.root).refuse("*/0000:ca:00.0/driver_override", errno.EIO)
    with pytest.raises(ApplyError) as failed:
        host.apply_stages([binding(host, FIRST), binding(host, SECOND)], "two cards")
    assert drivers(host) == ["nouveau", "nouveau"]
    assert message_of(failed.value).endswith("was taken back: bind 0000:65:00.0.")


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_what_was_done_before_any_other_error_is_taken_back(
    host: Host, error: BaseException
) -> None:
    def fail(_: Snapshot) -> Plan:
        raise error

    with pytest.raises(type(error)) as failed:
        host.apply_stages([binding(host, FIRST), fail], "one card")
    assert drivers(host) == ["nouveau", "nouveau"]
    assert failed.value.__notes__ == ["What was done before it was taken back: bind 0000:65:00.0."]


def test_nothing_done_leaves_nothing_to_take_back(host: Host) -> None:
    with pytest.raises(PlanRefused) as refused:
        host.apply_stages([refuse], "nothing")
    assert not hasattr(refused.value, "__notes__")


def test_what_cannot_be_taken_back_is_said_with_its_commands(host: Host) -> None:
    def sabotage(_: Snapshot) -> Plan:
        SimulatedKernel(host.root).refuse("*/nouveau/bind", errno.EIO)
        SimulatedKernel(host.root).refuse("*/drivers_probe", errno.EIO)
        return refuse(_)

    with pytest.raises(RollbackError) as failed:
        host.apply_stages([binding(host, FIRST), sabotage], "two cards")
    (journal,) = [entry.id for entry in host.journal.undoable()]
    assert failed.value.commands == (f"vfiohost --root {host.root} undo {journal}",)
    assert "There is no room." in str(failed.value)
    assert isinstance(failed.value.cause, PlanRefused)


def test_the_lock_of_the_caller_is_enough(host: Host) -> None:
    with host.locked("more than this"):
        host.apply_stages([binding(host, FIRST)], "one card")
    assert drivers(host) == ["vfio-pci", "nouveau"]


def test_a_host_that_is_so_already_is_left_alone(host: Host, tmp_path: Path) -> None:
    host.apply_stages([binding(host, FIRST)], "one card")
    (report,) = host.apply_stages([binding(host, FIRST)], "one card")
    assert report.journal_id is None
