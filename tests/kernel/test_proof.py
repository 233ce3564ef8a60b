"""The differential test can fail: rules that are broken on purpose are found and cut down.

Needs no machine: the simulation plays both kernels, on one side with a rule that is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.kernel import differential
from tests.kernel.differential import Difference, cut_down, describe, find_difference
from tests.kernel.random_actions import make_sequence
from tests.kernel.scenario import Store
from tests.kernel.simulated_host import Simulations
from tests.kernel.stepping import Step
from vfiohost import recording
from vfiohost.testing import bus, dispatch, driver_core, groups, mdev, processes, vendor_vgpu
from vfiohost.testing.machine import AnswerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.kernel.differential import Kernel
    from tests.kernel.scenario import Action
    from vfiohost.testing.machine import Machine

# It belongs to the lab: half a minute that other tests need not take.
pytestmark = pytest.mark.with_kernels

START = Path(__file__).with_name("start.host")
"""Where random sequences start, recorded: ``--record-start``."""
LENGTH = 40
SEEDS = range(40)
MOST_NEEDED = 9


@pytest.fixture
def simulations(in_memory: Path) -> Simulations:
    return Simulations(recording.parse(START.read_text()), in_memory)


def bind_looks_first_whether_the_device_is_free(patch: pytest.MonkeyPatch) -> None:
    def store_bind(machine: Machine, driver: str, data: bytes) -> None:
        if machine.driver_of(data.decode(errors="replace").strip()) is not None:
            raise AnswerError(16)
        bus.store_bind(machine, driver, data)

    patch.setitem(dispatch._DRIVER_RULES, ("pci", "bind"), store_bind)


def unbind_waits_for_nobody(patch: pytest.MonkeyPatch) -> None:
    def unregister(machine: Machine, path: str) -> None:
        files, machine.state.open_files = machine.state.open_files, []
        healthy(machine, path)
        machine.state.open_files = files

    healthy = groups.unregister
    patch.setattr(groups, "unregister", unregister)


def groups_are_always_viable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(groups, "blockers", lambda machine, group: [])


def counts_do_not_follow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mdev, "_update_counts", lambda *arguments, **options: None)


def vfs_do_not_keep_a_pf_from_vfio(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(driver_core, "num_vfs", lambda machine, path: 0)


def a_group_opens_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(processes, "_users", lambda machine, group: [])


def any_type_fits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vendor_vgpu.Model, "creatable", lambda self, used, **options: list(self.types))


def vgpus_end_while_they_are_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vendor_vgpu, "_check_closed", lambda machine, path: None)


BROKEN = (
    bind_looks_first_whether_the_device_is_free,
    unbind_waits_for_nobody,
    groups_are_always_viable,
    counts_do_not_follow,
    vfs_do_not_keep_a_pf_from_vfio,
    a_group_opens_twice,
    any_type_fits,
    vgpus_end_while_they_are_open,
)


@pytest.mark.parametrize("break_rule", BROKEN, ids=lambda rule: str(rule.__name__))
def test_a_broken_rule_is_found(
    simulations: Simulations, break_rule: Callable[[pytest.MonkeyPatch], None]
) -> None:
    def ask_healthy(actions: Sequence[Action]) -> list[Step]:
        return list(simulations.run(actions))

    def ask_broken(actions: Sequence[Action]) -> Iterator[Step]:
        with pytest.MonkeyPatch.context() as patch:
            break_rule(patch)
            yield from simulations.run(actions)

    found = next(filter(None, (_compare(seed, ask_healthy, ask_broken) for seed in SEEDS)))
    short = cut_down(found, ask_broken, ask_healthy)
    assert short.is_confirmed
    assert len(short.actions) <= MOST_NEEDED, short
    assert describe(short.actions[-1]) in str(short)


def _compare(
    seed: int,
    ask_healthy: Callable[[Sequence[Action]], list[Step]],
    ask_broken: Kernel,
) -> Difference | None:
    actions = make_sequence(seed, LENGTH)
    return find_difference(seed, actions, ask_healthy(actions), ask_broken)


def test_the_same_rules_never_differ(simulations: Simulations) -> None:
    for seed in range(3):
        actions = make_sequence(seed, LENGTH)
        once = list(simulations.run(actions))
        assert len(once) == LENGTH
        assert find_difference(seed, actions, once, simulations.run) is None


def test_a_seed_is_a_sequence() -> None:
    assert make_sequence(7, LENGTH) == make_sequence(7, LENGTH) != make_sequence(8, LENGTH)


def test_what_does_not_come_again_on_linux_is_shown_whole(
    simulations: Simulations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differential, "MOST_TRIES", 3)
    actions = make_sequence(1, LENGTH)
    *before, last = simulations.run(actions)
    linux = (*before, attrs.evolve(last, outcome="write EIO"))
    found = find_difference(1, actions, linux, simulations.run)
    assert found is not None
    short = cut_down(found, simulations.run, lambda actions: list(simulations.run(actions)))
    assert (short.actions, short.is_confirmed) == (actions, False)
    assert "it did not come again on Linux" in str(short)


def count_to(limit: int) -> Kernel:
    """A kernel that counts stores, and loses every one that would bring it to its limit."""

    def run(actions: Sequence[Action]) -> list[Step]:
        count, steps = 0, []
        for action in actions:
            counts = action == COUNT and count < limit - 1
            count += counts
            steps.append(Step("ok", {"count": str(count)} if counts else {}))
        return steps

    return run


NOISE, COUNT = Store("/p", "noise"), Store("/p", "count")


def test_difference_is_cut_down_to_what_is_needed_for_it() -> None:
    # The simulation alone cannot tell: it just does nothing. Linux has to be asked.
    linux, simulation = count_to(9), count_to(3)
    actions = (NOISE, COUNT, NOISE, NOISE, COUNT, NOISE, COUNT, NOISE)
    found = find_difference(5, actions, list(linux(actions)), simulation)
    assert found is not None
    assert found.actions == actions[:7]
    assert found.texts == [("count", "3", "as it was")]
    short = cut_down(found, simulation, linux)
    assert (short.actions, short.cut_from, short.is_confirmed) == ((COUNT,) * 3, 7, True)
    few = actions[:6]
    assert find_difference(5, few, list(linux(few)), simulation) is None
