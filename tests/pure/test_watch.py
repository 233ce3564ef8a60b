"""In what two snapshots differ, and when to look again."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import a10, a10_bus, address, details, device, rtx, snapshot
from vfiohost.errors import NotFoundError, ParseError
from vfiohost.model import (
    Driver,
    MdevBus,
    MediatedDevice,
    PciAddress,
    PciDevice,
    Problem,
    Snapshot,
    Unavailable,
)
from vfiohost.selectors import ByName, matcher
from vfiohost.watch.changes import (
    Change,
    DeviceAdded,
    DeviceRemoved,
    DriverChanged,
    DriverRegistered,
    DriverUnregistered,
    GroupChanged,
    MdevCreated,
    MdevRemoved,
    VfsChanged,
    changes,
)
from vfiohost.watch.pace import AGAIN, PAUSE, Pace
from vfiohost.watch.watcher import with_unseen

if TYPE_CHECKING:
    from collections.abc import Iterable

UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
ABSENT = Unavailable(2, "No such file or directory")
LOCKED = Unavailable(0, "device locked")
FORBIDDEN = Unavailable(13, "Permission denied")


def with_driver(host: Snapshot, where: str, driver: str | None) -> Snapshot:
    devices = tuple(
        attrs.evolve(d, driver=driver) if str(d.address) == where else d for d in host.devices
    )
    return attrs.evolve(host, devices=devices)


def kinds(found: Iterable[Change]) -> list[str]:
    return [f"{each.kind} {each.subject}" for each in found]


# ---- by example -------------------------------------------------------------------------------


def test_nothing_changed_is_nothing_told() -> None:
    assert changes(rtx(), rtx()) == ()


def test_a_driver_for_another() -> None:
    before = a10("nouveau")
    (change,) = changes(before, with_driver(before, "0000:65:00.0", "vfio-pci"))
    where = address("0000:65:00.0")
    assert change == DriverChanged(str(where), where, "nouveau", "vfio-pci", "bound", "bound")


def test_releasing_and_then_released() -> None:
    bound = a10("vfio-pci")
    where = "0000:65:00.0"
    gone = with_driver(bound, where, None)  # uevent still names the driver
    over = attrs.evolve(gone, details={**gone.details, address(where): details(None)})
    (first,) = changes(bound, gone)
    (second,) = changes(gone, over)
    assert isinstance(first, DriverChanged)
    assert isinstance(second, DriverChanged)
    assert (first.before, first.after, first.state) == ("vfio-pci", None, "releasing")
    assert (second.before, second.after, second.state_before, second.state) == (
        None,
        None,
        "releasing",
        "unbound",
    )


def test_virtual_functions_come_with_group_and_driver_and_go_before_their_parent() -> None:
    pf = device("0000:65:00.0", "nvidia", group=30, total_vfs=32)
    vfs = [
        device(f"0000:65:00.{n}", "vfio-pci", group=30 + n, physfn="0000:65:00.0") for n in (4, 5)
    ]
    without, with_vfs, nothing = snapshot(pf), snapshot(pf, *vfs), snapshot()
    assert kinds(changes(without, with_vfs)) == [
        "device-added 0000:65:00.4",
        "group-changed 0000:65:00.4",
        "driver-changed 0000:65:00.4",
        "device-added 0000:65:00.5",
        "group-changed 0000:65:00.5",
        "driver-changed 0000:65:00.5",
        "vfs-changed 0000:65:00.0",
    ]
    assert changes(without, with_vfs)[-1] == VfsChanged("0000:65:00.0", pf.address, 0, 2)
    gone = kinds(changes(with_vfs, nothing))
    assert [each for each in gone if each.startswith("device-removed")] == [
        "device-removed 0000:65:00.5",
        "device-removed 0000:65:00.4",
        "device-removed 0000:65:00.0",
    ]
    assert gone[:3] == [
        "driver-changed 0000:65:00.5",
        "group-changed 0000:65:00.5",
        "device-removed 0000:65:00.5",
    ]


def test_another_card_at_the_same_address_went_and_came() -> None:
    old, new = device("0000:65:00.0", "nvidia"), device("0000:65:00.0", "nvidia", ids="10de:25b6")
    assert kinds(changes(snapshot(old), snapshot(new))) == [
        "driver-changed 0000:65:00.0",
        "device-removed 0000:65:00.0",
        "device-added 0000:65:00.0",
        "driver-changed 0000:65:00.0",
    ]


def test_a_vgpu_is_told_with_its_type_and_parent_and_not_before_it_is_finished() -> None:
    bare, made = a10_bus(), a10_bus((UUID, "0000:65:00.4", "nvidia-595"))
    half = attrs.evolve(made, devices=(attrs.evolve(made.devices[0], type_id=ABSENT),))
    hosts = [a10("nvidia", mdev=bus) for bus in (bare, half, made)]
    assert changes(hosts[0], hosts[1]) == ()
    created = changes(hosts[1], hosts[2])
    assert kinds(created) == [f"{kind} {UUID}" for kind in ("mdev-created", "group-changed")] + [
        f"driver-changed {UUID}"
    ]
    assert created[0].to_json() == {
        "kind": "mdev-created",
        "subject": UUID,
        "address": "0000:65:00.4",
        "parent": "0000:65:00.4",
        "type_id": "nvidia-595",
        "type_name": "NVIDIA A10-8Q",
    }
    assert kinds(changes(hosts[2], hosts[1])) == [
        f"driver-changed {UUID}",
        f"group-changed {UUID}",
        f"mdev-removed {UUID}",
    ]


def test_drivers_that_come_are_told_first_and_those_that_go_last() -> None:
    nouveau, vfio = Driver("nouveau", "nouveau"), Driver("vfio-pci", "vfio_pci")
    before = snapshot(device("0000:65:00.0", "nouveau"), drivers=[nouveau])
    after = snapshot(device("0000:65:00.0", "vfio-pci"), drivers=[vfio])
    found = changes(before, after)
    assert found[0] == DriverRegistered("vfio-pci", None, "vfio_pci")
    assert found[-1] == DriverUnregistered("nouveau", None, "nouveau")
    assert kinds(found[1:-1]) == ["driver-changed 0000:65:00.0"]


def test_changes_are_values() -> None:
    before, after = a10("nouveau"), snapshot()
    found = changes(before, after)
    assert found
    assert pickle.loads(pickle.dumps(found)) == found
    assert len(set(found)) == len(found)


def test_what_cannot_be_read_is_said_so() -> None:
    before = snapshot(device("0000:65:00.0", "nvidia", group=4))
    after = snapshot(device("0000:65:00.0", FORBIDDEN, group=4))
    (change,) = changes(before, after)
    assert change.to_json() == {
        "kind": "driver-changed",
        "subject": "0000:65:00.0",
        "address": "0000:65:00.0",
        "before": "nvidia",
        "after": {"unavailable": "Permission denied", "errno": 13},
        "state_before": "bound",
        "state": "unknown",
    }


# ---- by properties ----------------------------------------------------------------------------

_PF = "0000:65:00.0"
_PLACES = (_PF, "0000:65:00.4", "0000:65:00.5", "0000:b4:00.0")
_names = st.sampled_from([None, "nvidia", "vfio-pci", FORBIDDEN])
_groups = st.sampled_from([None, 1, 2, FORBIDDEN])
_types = st.sampled_from(["nvidia-1", "nvidia-2"]) | st.sampled_from([ABSENT, LOCKED])


@st.composite
def _functions(draw: st.DrawFn, where: str) -> PciDevice:
    physfn = draw(st.sampled_from([None, _PF])) if where != _PF else None
    ids = draw(st.sampled_from(["10de:2236", "10de:25b6"]))
    return device(where, draw(_names), ids=ids, group=draw(_groups), physfn=physfn)


@st.composite
def _mdevs(draw: st.DrawFn, uuid: str) -> MediatedDevice:
    return MediatedDevice(
        uuid=uuid,
        parent=draw(st.sampled_from([*_PLACES, "mtty"])),
        type_id=draw(_types),
        type_name=None,
        driver=draw(_names),
        iommu_group=draw(_groups),
    )


@st.composite
def _hosts(draw: st.DrawFn) -> Snapshot:
    places = draw(st.sets(st.sampled_from(_PLACES)))
    devices = [draw(_functions(place)) for place in sorted(places)]
    uuids = draw(st.sets(st.sampled_from([UUID, UUID.replace("1001", "1002")])))
    found = draw(st.sets(st.sampled_from(["nvidia", "vfio-pci", "nouveau"])))
    bus = MdevBus((), tuple(draw(_mdevs(uuid)) for uuid in sorted(uuids)))
    uevents = {d.address: draw(st.sampled_from([None, "vfio-pci", LOCKED])) for d in devices}
    return attrs.evolve(
        snapshot(*devices, drivers=[Driver(name, None) for name in sorted(found)]),
        details={where: details(driver) for where, driver in uevents.items()},
        mdev=draw(st.sampled_from([None, bus])),
    )


Facts = dict[str, Any]


def facts(host: Snapshot) -> Facts:
    """All that changes tell of a host, written down in another way."""
    found: Facts = dict.fromkeys(host.drivers, "driver")
    for each in host.devices:
        found[str(each.address)] = {
            "is": (each.ids, each.class_code, each.path),
            "driver": (each.driver, host.state_of(each)),
            "group": each.iommu_group,
            "vfs": sum(d.physfn == each.address for d in host.devices),
        }
    for mdev in () if host.mdev is None else host.mdev.devices:
        if mdev.type_id != ABSENT:
            state = "unknown" if isinstance(mdev.driver, Unavailable) else "bound"
            state = "unbound" if mdev.driver is None else state
            found[mdev.uuid] = {
                "is": (mdev.parent, mdev.type_id),
                "driver": (mdev.driver, state),
                "group": mdev.iommu_group,
            }
    return found


_BARE = {"driver": (None, "unbound"), "group": None}


def applied(known: Facts, told: Iterable[Change]) -> Facts:
    """What somebody knows who believes each change, and finds it to fit what he knew."""
    known = {subject: dict(f) if isinstance(f, dict) else f for subject, f in known.items()}
    for change in told:
        subject = change.subject
        match change:
            case DeviceAdded(device=d):
                assert subject not in known
                known[subject] = {"is": (d.ids, d.class_code, d.path), **_BARE, "vfs": 0}
            case MdevCreated(mdev=m):
                assert subject not in known
                known[subject] = {"is": (m.parent, m.type_id), **_BARE}
            case DeviceRemoved() | MdevRemoved():
                gone = known.pop(subject)
                assert {key: gone[key] for key in _BARE} == _BARE
            case DriverChanged():
                assert known[subject]["driver"] == (change.before, change.state_before)
                known[subject]["driver"] = (change.after, change.state)
            case GroupChanged():
                assert known[subject]["group"] == change.before
                known[subject]["group"] = change.after
            case VfsChanged():
                known[subject]["vfs"] = change.after
            case DriverRegistered():
                assert subject not in known
                known[subject] = "driver"
            case DriverUnregistered():
                del known[subject]
    return known


@given(_hosts())
def test_a_host_does_not_differ_from_itself(host: Snapshot) -> None:
    assert changes(host, host) == ()
    assert changes(host, attrs.evolve(host, problems=(Problem("x", None, "x"),))) == ()


@given(_hosts(), _hosts())
def test_who_believes_the_changes_knows_the_host(before: Snapshot, after: Snapshot) -> None:
    assert applied(facts(before), changes(before, after)) == facts(after)


@given(_hosts(), _hosts(), _hosts())
def test_two_steps_lead_where_one_does(first: Snapshot, second: Snapshot, third: Snapshot) -> None:
    on_the_way = applied(facts(first), changes(first, second))
    assert applied(on_the_way, changes(second, third)) == applied(
        facts(first), changes(first, third)
    )


@given(_hosts(), _hosts())
def test_each_change_is_told_once_and_in_one_order(before: Snapshot, after: Snapshot) -> None:
    found = changes(before, after)
    assert len(set(map(repr, found))) == len(found)
    shuffled = attrs.evolve(after, drivers=dict(reversed(list(after.drivers.items()))))
    assert changes(before, shuffled) == found


# ---- what was not seen ------------------------------------------------------------------------


def test_what_could_not_be_looked_at_has_not_gone() -> None:
    before = a10("nouveau")
    one = before.devices[0]
    problem = Problem(str(one.address), f"sys/bus/pci/devices/{one.address}", "left out: EMFILE")
    seen = attrs.evolve(before, devices=before.devices[1:], problems=(problem,))
    kept, names = with_unseen(before, seen)
    assert names == {str(one.address)}
    assert changes(before, kept) == ()
    seen = attrs.evolve(before, devices=(), problems=(Problem("pci", "sys/bus/pci/devices", "?"),))
    kept, names = with_unseen(before, seen)
    assert kept.devices == before.devices
    assert len(names) == 2
    assert changes(before, kept) == ()


def test_what_has_gone_is_not_kept() -> None:
    before = a10("nouveau")
    problem = Problem("nouveau", "sys/bus/pci/drivers/nouveau/module", "?")
    seen = attrs.evolve(before, devices=before.devices[1:], problems=(problem,))
    assert with_unseen(before, seen) == (seen, frozenset())


def test_a_vgpu_that_could_not_be_looked_at_has_not_gone() -> None:
    before = a10("nvidia", mdev=a10_bus((UUID, "0000:65:00.4", "nvidia-595")))
    problem = Problem(UUID, f"sys/bus/mdev/devices/{UUID}", "left out: EMFILE")
    seen = attrs.evolve(before, mdev=a10_bus(), problems=(problem,))
    kept, names = with_unseen(before, seen)
    assert changes(before, kept) == ()
    assert names == {UUID}


# ---- when to look -----------------------------------------------------------------------------


def test_nothing_is_due_until_something_is_heard() -> None:
    pace = Pace()
    due = [pace.due]
    pace.heard(10.0)
    due.append(pace.due)
    assert pace.is_answering
    pace.looked(10.2, is_news=False)
    due.append(pace.due)
    assert due == [None, 10.0 + PAUSE, None]


def test_a_burst_is_answered_by_one_look() -> None:
    pace = Pace()
    for number in range(10_000):
        pace.heard(10.0 + number / 1_000_000)
    assert pace.due == 10.0 + PAUSE


def test_news_are_followed_by_one_more_look_which_an_event_does_not_wait_for() -> None:
    pace = Pace()
    pace.heard(10.0)
    pace.looked(10.2, is_news=True)
    assert pace.due == 10.2 + AGAIN
    assert not pace.is_answering
    pace.heard(10.3)
    assert pace.due == 10.3 + PAUSE
    pace.looked(10.4, is_news=False)
    assert pace.due is None


# ---- which devices ----------------------------------------------------------------------------


def test_a_set_is_open_for_what_comes() -> None:
    host = snapshot(device("0000:65:00.0"), device("0000:01:00.0", ids="8086:10d3"))
    is_wanted = matcher(["10de:2236", "0000:02:00.0"], host)
    assert [is_wanted(d) for d in host.devices] == [False, True]
    assert is_wanted(device("0000:ca:00.0"))
    assert is_wanted(device("0000:02:00.0", ids="8086:10d3"))


def test_a_name_and_the_nth_of_a_set_are_who_has_them_now() -> None:
    host = a10()

    def lookup(by: ByName) -> tuple[PciAddress, ...]:
        return (address("0000:b4:00.0"),) if by.name == "eth0" else ()

    is_wanted = matcher(["10de:2236:0"], host)
    assert [is_wanted(d) for d in host.devices] == [True, False]
    is_wanted = matcher(["eth0"], host, lookup)
    assert [is_wanted(d) for d in host.devices] == [False, True]
    with pytest.raises(NotFoundError):
        matcher(["10de:2236:7"], host)
    with pytest.raises(ParseError):
        matcher(["nonsense"], host)
