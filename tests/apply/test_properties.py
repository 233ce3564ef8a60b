"""Random plans on a kernel that fails at random: before, after, or an error that says what else."""

from __future__ import annotations

import errno
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.apply.conftest import Bench, make_bench
from tests.apply.fake import (
    DIED,
    GPU,
    NATIVE,
    OTHER_GPU,
    UNSET,
    UUIDS,
    Fault,
    add_driver,
    add_groups,
    bind,
    create,
    origin,
    override,
    remove,
    set_params,
    unbind,
)
from tests.apply.test_crash import in_child
from vfiohost.errors import ApplyError, PendingError, RollbackError
from vfiohost.plan.types import Plan, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICES = (GPU, OTHER_GPU)


class Model:
    """What a random plan has made of the host so far, so that its next step makes sense."""

    def __init__(self) -> None:
        self.driver: dict[str, str | None] = dict(NATIVE.items())
        self.override: dict[str, str | None] = dict.fromkeys(NATIVE)
        self.mdevs: set[str] = set()

    def step(self, choice: str, address: str, uuid: str, name: str | None) -> Step | None:
        """A step of the chosen kind, if it is possible now; the model takes it."""
        old = self.override[address]
        if choice == "driver":
            return self._driver_step(address, old)
        if choice == "override" and old != name:
            self.override[address] = name
            return override(address, old, name)
        if choice == "mdev":
            self.mdevs ^= {uuid}
            return create(uuid) if uuid in self.mdevs else remove(uuid)
        if choice == "params" and uuid in self.mdevs:
            return set_params(uuid, name or "0")
        return None

    def _driver_step(self, address: str, old: str | None) -> Step | None:
        driver, native = self.driver[address], NATIVE[address]
        gives = native if old is None else old  # who gets the device by ids and override
        if driver is None and gives in ("vfio-pci", native):
            self.driver[address] = gives
            return bind(address, gives)
        if driver is not None and driver == gives:  # else it could not be given back
            self.driver[address] = None
            return unbind(address, driver)
        return None

    def state(self) -> dict[str, str]:
        """The same as :func:`tests.apply.fake.state`."""
        found = dict.fromkeys(self.mdevs, "nvidia-595")
        for address in NATIVE:
            found[address] = self.driver[address] or ""
            found[f"{address} override"] = f"{self.override[address] or UNSET}\n"
        return found


choices = st.tuples(
    st.sampled_from(["driver", "driver", "override", "mdev", "params"]),
    st.sampled_from(DEVICES),
    st.sampled_from(UUIDS),
    st.sampled_from(["vfio-pci", "nouveau", "none", None]),
)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Plan, dict[str, str]]:
    """A plan, and the state in which it leaves the host."""
    model = Model()
    steps = [model.step(*choice) for choice in draw(st.lists(choices, min_size=4, max_size=16))]
    plan = Plan(
        "bind",
        DEVICES,
        tuple(step for step in steps if step is not None),
        tuple(origin(address) for address in DEVICES),
    )
    return plan, model.state()


faults = st.dictionaries(
    st.integers(0, 10),
    st.one_of(
        st.builds(
            Fault,
            st.just("refuse"),
            effect=st.booleans(),
            errno=st.sampled_from([errno.ENODEV, errno.EIO, errno.EACCES]),
        ),
        # With it the kernel says that somebody else was there before: we had no effect.
        st.just(Fault("refuse", errno=errno.EBUSY)),
        st.just(Fault("ignore")),
        st.builds(Fault, st.sampled_from(["block", "raise"]), effect=st.booleans()),
    ),
    min_size=1,
    max_size=4,
)


kills = st.dictionaries(
    st.integers(0, 6), st.builds(Fault, st.just("die"), effect=st.booleans()), max_size=1
)


def saves(last: int) -> st.SearchStrategy[tuple[int, bool]]:
    """At which save to die, and whether it saved what it should."""
    return st.tuples(st.integers(1, last), st.booleans())


@contextmanager
def new_bench(*, has_groups: bool) -> Iterator[Bench]:
    """A host; with groups, the steps of its two cards are under way side by side."""
    with tempfile.TemporaryDirectory() as directory:
        bench = make_bench(Path(directory))
        add_driver(bench.root, "vfio-pci")
        if has_groups:
            add_groups(bench.root)
        with bench.sysfs:
            yield bench


def failure_of(bench: Bench, plan: Plan) -> ApplyError | None:
    try:
        bench.apply(plan)
    except ApplyError as error:
        return error
    return None


@given(planned=plans(), wrong=faults, has_groups=st.booleans())
@settings(max_examples=100)
def test_before_or_after_or_an_explicit_error(
    *, planned: tuple[Plan, dict[str, str]], wrong: dict[int, Fault], has_groups: bool
) -> None:
    plan, after = planned
    with new_bench(has_groups=has_groups) as bench:
        before = bench.state()
        bench.kernel.faults = wrong
        error = failure_of(bench, plan)
        event(type(error).__name__)
        if error is None:
            assert bench.state() == after
        elif isinstance(error, RollbackError):
            assert error.commands
        elif not isinstance(error, PendingError):
            assert bench.state() == before
        assert bool(bench.journal.open_entries()) == isinstance(error, PendingError)

        bench.kernel.faults = {}
        for recovery in bench.recover():
            event(recovery.outcome)
            assert recovery.commands if recovery.outcome == "half-way" else bench.state() == before
        assert not bench.journal.open_entries()


@given(planned=plans(), first=saves(30), second=saves(12), has_groups=st.booleans())
@settings(max_examples=40)
def test_killed_at_any_save_and_once_more_while_recovering(
    *,
    planned: tuple[Plan, dict[str, str]],
    first: tuple[int, bool],
    second: tuple[int, bool],
    has_groups: bool,
) -> None:
    plan, after = planned
    with new_bench(has_groups=has_groups) as bench:
        before = bench.state()
        died = in_child(lambda: bench.apply(plan), die_at_save=first) == DIED
        if died:
            again = in_child(bench.recover, die_at_save=second) == DIED
            event("killed twice" if again else "killed")
        assert all(recovery.outcome == "recovered" for recovery in bench.recover())
        assert bench.state() in ([before, after] if died else [after])
        assert bench.recover() == ()


@given(planned=plans(), first=kills, second=kills, has_groups=st.booleans())
@settings(max_examples=40)
def test_killed_around_any_store_and_once_more_while_recovering(
    *,
    planned: tuple[Plan, dict[str, str]],
    first: dict[int, Fault],
    second: dict[int, Fault],
    has_groups: bool,
) -> None:
    plan, after = planned
    with new_bench(has_groups=has_groups) as bench:
        before = bench.state()
        bench.kernel.faults = first
        died = in_child(lambda: bench.apply(plan)) == DIED
        bench.kernel.faults = second
        again = died and in_child(bench.recover) == DIED
        event(f"killed {died + again} times")
        bench.kernel.faults = {}
        assert all(recovery.outcome == "recovered" for recovery in bench.recover())
        assert bench.state() == (before if died else after)
        assert bench.recover() == ()
