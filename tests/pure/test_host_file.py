"""The host file: what it may say, which devices it is about, in what a host differs."""

from __future__ import annotations

import contextlib
import tomllib
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import device
from vfiohost.errors import ParseError, PlanRefused, UnsupportedError
from vfiohost.host_file.reading import parse
from vfiohost.host_file.resolving import differences, resolve
from vfiohost.host_file.types import Ids
from vfiohost.host_file.updating import update
from vfiohost.host_file.writing import device_tables, write
from vfiohost.model import Details, PciAddress, Snapshot

if TYPE_CHECKING:
    from vfiohost.model import PciDevice

A10 = attrs.evolve(
    device("0000:65:00.0", "nouveau", group=15, total_vfs=32),
    path="sys/devices/pci0000:64/0000:64:02.0/0000:65:00.0",
)
OTHER = attrs.evolve(
    device("0000:ca:00.0", "nouveau", group=16, total_vfs=32),
    path="sys/devices/pci0000:c9/0000:c9:02.0/0000:ca:00.0",
)
NIC = device("0000:01:00.0", "e1000e", ids="8086:10d3", class_code=0x020000, group=3)


def host(*devices: PciDevice, overrides: dict[str, str] | None = None) -> Snapshot:
    details = {
        PciAddress.parse(name): Details(override, None, None, None)
        for name, override in (overrides or {}).items()
    }
    return Snapshot(None, devices, {}, details=details)


def tables(*lines: str) -> str:
    return "\n".join(("version = 1", *lines))


def one(*lines: str) -> str:
    return tables("[[device]]", 'select = "65:00.0"', 'ids = "10de:2236"', *lines)


GOOD = {
    "nothing": "version = 1",
    "driver": one('driver = "vfio-pci"', "group = true", 'owner = "qemu:kvm"', 'mode = "0660"'),
    "native": one('driver = "native"', 'vfs = "all"', 'vgpus = { "A10-12Q" = 2 }'),
    "no vfs": one("vfs = 0"),
    "no vgpus": one("vgpus = {}"),
    "set": tables("[[device]]", 'select = "10de:2236"', "count = 2", 'power = "on"'),
    "place": tables("[[device]]", 'select = "path:pci0000:64/02.0/00.0"', 'driver = "auto"'),
    "slot": tables("[[device]]", 'select = "slot:3"', "count = 2", 'driver = "none"'),
    "serial": tables("[[device]]", 'select = "serial:S5GX"', 'power = "auto"'),
    "mdev": tables(
        "[[mdev]]",
        'uuid = "83B8F4F2-509F-382F-3C1E-E6BFE0FA1001"',
        'parent = "mtty"',
        'type = "mtty-2"',
        'attrs = [["a", "1"], ["a", "2"]]',
    ),
}

BAD = {
    "no version": ("", "version = 1"),
    "another version": ("version = 2", "'2' is not 1"),
    "a text for a version": ('version = "1"', "'1' is not 1"),
    "true for a version": ("version = true", "'True' is not 1"),
    "no TOML": ("version == 1", "line 1, column 10"),
    "unknown table": (tables("[[devices]]"), "Did you mean device?"),
    "unknown key": (one('drivers = "vfio-pci"'), "Did you mean driver?"),
    "one table": (tables("[device]", 'select = "65:00.0"'), "[[device]]"),
    "no selector": (tables("[[device]]", 'driver = "auto"'), "with select"),
    "bad selector": (tables("[[device]]", 'select = "65:00"'), "65:00.0"),
    "address alone": (tables("[[device]]", 'select = "65:00.0"'), "given with ids"),
    "interface alone": (tables("[[device]]", 'select = "eth0"'), "given with ids"),
    "group alone": (tables("[[device]]", 'select = "group:3"'), "given with ids"),
    "bad ids": (one().replace("10de:2236", "10de"), "vendor:device"),
    "two of one": (one("count = 2"), "It hits one."),
    "none at all": (one("count = 0"), "from 1 to"),
    "bad driver": (one('driver = "a/b"'), "driver"),
    "bad power": (one('power = "off"'), "on or auto"),
    "bad vfs": (one("vfs = -1"), "from 0 to"),
    "many vfs": (one('vfs = "many"'), "from 0 to"),
    "vf-driver alone": (one('vf-driver = "vfio-pci"'), "given with vfs"),
    "vgpus of a guest's": (one('driver = "vfio-pci"', 'vgpus = { "A10-8Q" = 1 }'), "native"),
    "no number of vgpus": (one('vgpus = { "A10-8Q" = "1" }'), "from 1 to"),
    "owner alone": (one('owner = "qemu"'), "VFIO driver"),
    "owner of no nodes": (one('driver = "native"', 'mode = "0660"'), "VFIO driver"),
    "group of nothing": (one("group = true"), "given with driver"),
    "group as text": (one('driver = "auto"', 'group = "yes"'), "true or false"),
    "no uuid": (tables("[[mdev]]", 'parent = "mtty"', 'type = "1"'), "with uuid"),
    "bad uuid": (tables("[[mdev]]", 'uuid = "1"', 'parent = "mtty"', 'type = "1"'), "uuid"),
    "uuid twice": ("\n".join((GOOD["mdev"], *GOOD["mdev"].splitlines()[1:])), "of its own"),
    "bad attributes": (GOOD["mdev"].replace('"1"]', '"1", "2"]'), "pairs of texts"),
    "control characters": (one('driver = "a\\u001bb"'), "driver"),
    "deep": ("a = " + "[" * 5000, "TOML"),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_good(text: str) -> None:
    assert parse(text, "FILE").name == "FILE"


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_bad(text: str, said: str) -> None:
    with pytest.raises(ParseError) as error:
        parse(text, "FILE")
    assert said in str(error.value)
    assert "FILE" in str(error.value)


def test_a_mdev_keeps_the_order_of_its_attributes() -> None:
    (mdev,) = parse(GOOD["mdev"]).mdevs
    assert mdev.uuid == "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
    assert mdev.attributes == (("a", "1"), ("a", "2"))


@given(st.text())
def test_any_text_is_a_host_file_or_an_error(text: str) -> None:
    with contextlib.suppress(ParseError):
        parse(text)


VALUES = st.recursive(
    st.booleans() | st.integers(-2, 70000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
KEYS = ("select", "ids", "count", "driver", "group", "owner", "mode", "power", "vfs", "vgpus", "x")


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES), max_size=3))
def test_any_table_is_understood_or_an_error(made: list[dict[str, object]]) -> None:
    with contextlib.suppress(ParseError):
        parse(write(made, ()))


@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=4))
def test_what_is_written_is_toml(table: dict[str, object]) -> None:
    quoted = {f"k{number}": value for number, value in enumerate(table.values())}
    assert tomllib.loads(write([quoted], ()))["device"] == [quoted]


# -- which devices ---------------------------------------------------------------------------------


def refusals(text: str, snapshot: Snapshot) -> list[str]:
    with pytest.raises(PlanRefused) as refused:
        resolve(parse(text), snapshot)
    return [refusal.code for refusal in refused.value.refusals]


def test_each_device_gets_its_table() -> None:
    text = "\n".join((GOOD["set"], '[[device]]\nselect = "8086:10d3"\ndriver = "auto"'))
    wanted = resolve(parse(text), host(NIC, A10, OTHER))
    assert [str(each.address) for each in wanted] == [
        "0000:65:00.0",
        "0000:ca:00.0",
        "0000:01:00.0",
    ]
    assert wanted[2].table.driver == "auto"


def test_a_device_that_is_not_there() -> None:
    assert refusals(one(), host(NIC)) == ["not-there"]


def test_another_device_at_the_address() -> None:
    nic = attrs.evolve(NIC, address=A10.address)
    assert refusals(one(), host(nic)) == ["another-device"]


def test_another_board_at_the_address() -> None:
    text = one().replace("10de:2236", "10de:2236:10de:9999")
    assert refusals(text, host(A10)) == ["another-device"]


def test_more_than_the_file_says() -> None:
    third = attrs.evolve(OTHER, address=PciAddress.parse("0000:cb:00.0"))
    assert refusals(GOOD["set"], host(A10, OTHER, third)) == ["miscounted"]


def test_all_reasons_at_once() -> None:
    text = "\n".join((one(), *GOOD["set"].splitlines()[1:], *one().splitlines()[1:]))
    assert refusals(text, host(A10)) == ["miscounted", "said-twice"]


# -- in what it differs ----------------------------------------------------------------------------

VFIO = attrs.evolve(A10, driver="vfio-pci")
BARE = attrs.evolve(A10, driver=None)


@pytest.mark.parametrize(
    ("driver", "found", "override", "differs"),
    [
        ("vfio-pci", A10, None, "nouveau"),
        ("vfio-pci", VFIO, "vfio-pci", None),
        ("vfio-pci", VFIO, None, None),
        ("vfio-pci", VFIO, "nouveau", "vfio-pci (driver_override nouveau)"),
        ("auto", VFIO, "vfio-pci", None),
        ("auto", A10, None, "nouveau"),
        ("native", A10, None, None),
        ("native", BARE, None, None),
        ("native", VFIO, None, "vfio-pci"),
        ("native", A10, "nouveau", "nouveau"),
        ("none", BARE, "none", None),
        ("none", BARE, None, "no driver"),
        ("none", A10, "none", "nouveau (driver_override none)"),
    ],
)
def test_drivers(driver: str, found: PciDevice, override: str | None, differs: str | None) -> None:
    overrides = {} if override is None else {str(found.address): override}
    snapshot = host(found, overrides=overrides)
    wanted = resolve(parse(one(f'driver = "{driver}"')), snapshot)
    assert [each.found for each in differences(wanted, snapshot, {})] == (
        [] if differs is None else [differs]
    )


def vf(number: int, driver: str | None) -> PciDevice:
    return device(f"0000:65:00.{number}", driver, physfn="0000:65:00.0")


@pytest.mark.parametrize(
    ("says", "vfs", "expected"),
    [
        (["vfs = 0"], [], []),
        (["vfs = 2"], [], [("vfs", "0", "2")]),
        (['vfs = "all"'], [vf(4, None)], [("vfs", "1", "32")]),
        (
            ["vfs = 1", 'vf-driver = "vfio-pci"'],
            [vf(4, None)],
            [("vf-driver", "no driver", "vfio-pci")],
        ),
        (["vfs = 1", 'vf-driver = "vfio-pci"'], [vf(4, "vfio-pci")], []),
        (["vfs = 1"], [vf(4, None)], []),
        (["vfs = 1", 'vf-driver = "native"'], [vf(4, None)], []),
        (
            ["vfs = 1", 'vf-driver = "native"'],
            [vf(5, None)],
            [("vf-driver", "no driver", "native")],
        ),
    ],
)
def test_functions(
    says: list[str], vfs: list[PciDevice], expected: list[tuple[str, str, str]]
) -> None:
    snapshot = host(A10, *vfs)
    idle = [vf(5, None).address]
    found = differences(resolve(parse(one(*says)), snapshot), snapshot, {}, idle)
    assert [(each.what, each.found, each.wanted) for each in found] == expected


@pytest.mark.parametrize(("now", "differs"), [("auto", True), ("on", False), (None, False)])
def test_power(now: str | None, differs: bool) -> None:  # noqa: FBT001 - a case
    snapshot = host(A10)
    power = {} if now is None else {A10.address: now}
    found = list(differences(resolve(parse(one('power = "on"')), snapshot), snapshot, power))
    assert bool(found) is differs


# -- the other way ---------------------------------------------------------------------------------


def test_what_is_exported_is_what_is() -> None:
    snapshot = host(
        attrs.evolve(A10, driver="vfio-pci"),
        attrs.evolve(OTHER, driver="nvidia"),
        attrs.evolve(vf(4, "vfio-pci"), physfn=OTHER.address),
        NIC,
        overrides={"0000:65:00.0": "vfio-pci"},
    )
    made = [*device_tables(snapshot, {OTHER.address: {"A10-8Q": 3}}).values()]
    # The last line is a contradiction that only a test can make: a guest's VFs and vGPUs at once.
    assert [{k: v for k, v in table.items() if k not in ("select", "ids")} for table in made] == [
        {"driver": "vfio-pci"},
        {"vfs": 1, "vf-driver": "vfio-pci", "vgpus": {"A10-8Q": 3}},
    ]
    file = parse(write(made, ()))
    assert [table.ids for table in file.devices] == [Ids.of(A10), Ids.of(OTHER)]
    left = differences(resolve(file, snapshot), snapshot, {})
    assert [each.what for each in left] == ["vgpus"]  # of which this snapshot has none


def updated(text: str, snapshot: Snapshot) -> str:
    return update(text, "FILE", snapshot, device_tables(snapshot, {}), [])


def test_an_update_keeps_comments_and_own_keys() -> None:
    text = """\
# who: the platform team
version = 1

# the network
[[device]]
select = "8086:10d3"   # went back to the host
driver = "vfio-pci"

[[device]]
# for the guests
select = "path:pci0000:64/02.0/00.0"
ids = "10de:2236:10de:1482"  # an A10
driver = "nouveau"  # wrong by now
power = "on"

# the end
"""
    snapshot = host(attrs.evolve(A10, driver="vfio-pci"), attrs.evolve(OTHER, driver="none"), NIC)
    snapshot = attrs.evolve(snapshot, details=host(overrides={"0000:ca:00.0": "none"}).details)
    made = updated(text, snapshot)
    kept = text.replace("nouveau", "vfio-pci").replace(
        '[[device]]\nselect = "8086:10d3"   # went back to the host\ndriver = "vfio-pci"\n\n', ""
    )
    new = 'select = "path:pci0000:c9/02.0/00.0"\nids = "10de:2236:10de:1482"\ndriver = "none"\n'
    assert made == f"{kept}\n[[device]]\n{new}"
    assert updated(made, snapshot) == made


SET = tables(
    "[[device]]  # both",
    'select = "10de:2236"',
    "count = 2",
    'driver = "auto"',
    'owner = "qemu"',
    'power = "on"  # they sleep badly',
    "",
)


def test_an_update_of_a_set_that_is_so() -> None:
    cards = [attrs.evolve(each, driver="vfio-pci") for each in (A10, OTHER)]
    assert updated(SET, host(*cards)) == SET


def test_an_update_of_a_set_that_has_become_two() -> None:
    made = updated(SET, host(attrs.evolve(A10, driver="vfio-pci"), OTHER))
    assert "[[device]]  # both" in made
    assert "# they sleep badly" in made
    first, second = tomllib.loads(made)["device"]
    assert first == {
        "select": "path:pci0000:64/02.0/00.0",
        "ids": "10de:2236:10de:1482",
        "driver": "auto",
        "owner": "qemu",
        "power": "on",
    }
    assert second["select"] == "path:pci0000:c9/02.0/00.0"
    assert (second["driver"], second["power"]) == ("native", "on")


def test_an_update_of_a_set_that_virtual_functions_have_joined() -> None:
    text = tables("[[device]]", 'select = "10de:2236"  # it', 'power = "on"', "")
    snapshot = host(A10, attrs.evolve(vf(4, None), device_id=A10.device_id))
    made = updated(text, snapshot)
    (table,) = tomllib.loads(made)["device"]
    assert (table["select"], table["vfs"]) == ("path:pci0000:64/02.0/00.0", 1)
    assert "# it" in made
    assert len(resolve(parse(made), snapshot)) == 1


def test_an_update_of_a_group() -> None:
    text = one('driver = "vfio-pci"', "group = true", "")
    card = attrs.evolve(A10, driver="vfio-pci")
    audio = attrs.evolve(OTHER, driver="vfio-pci", iommu_group=A10.iommu_group)
    assert updated(text, host(card, audio)) == text


def test_an_update_of_what_the_host_knows_nothing() -> None:
    text = one('power = "on"  # always', "")
    assert updated(text, host(A10)) == text
    assert updated(text, host(NIC)) == text  # nor is it lost with its device
    bound = host(attrs.evolve(A10, driver="vfio-pci"))
    assert updated(text, bound) == f'{text}driver = "vfio-pci"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version = ", "FILE"),
        ("version = 2", "version"),
        ('version = 1\ndevice = "x"', "device"),
        (one('power = "on"').replace("[[device]]", "[device]"), "device"),
        (tables("# caf\udce9"), "Line 2"),
        (tables("#" * (1 << 20)), "larger than 1048576"),
    ],
)
def test_an_update_of_no_host_file(text: str, said: str) -> None:
    with pytest.raises(ParseError, match=said):
        updated(text, host(A10))


@pytest.mark.parametrize("text", ['device = [{select = "10de:2236"}]\nversion = 1'])
def test_an_update_of_tables_in_another_form(text: str) -> None:
    with pytest.raises(UnsupportedError, match="FILE has tables"):
        updated(text, host(A10))
