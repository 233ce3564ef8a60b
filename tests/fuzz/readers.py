"""What reads texts that others wrote, each as a function of bytes.

A reader gives a label of what came of its input: the sentence that a text was refused with, or what
kind of value it gave. New labels are what the fuzzer looks for. Any exception is a bug.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import attrs

from tests.fuzz import hosts
from vfiohost import recording, testing
from vfiohost.cli import options as cli_options
from vfiohost.cli import parser as cli_parser
from vfiohost.cli import reading as cli_reading
from vfiohost.errors import AmbiguousError, NotFoundError, ParseError, UnsupportedError
from vfiohost.host import Host
from vfiohost.journal import entry as journal_entry
from vfiohost.journal import locking
from vfiohost.modalias import Modalias, ModuleIndex
from vfiohost.model import PciAddress, Snapshot
from vfiohost.names import PciNames
from vfiohost.nvidia import VgpuDescription, VgpuTypeName, parse_vgpu_config
from vfiohost.plan.types import ChangeNodes, Plan, WriteAttr
from vfiohost.selectors import select_all
from vfiohost.testing import fixtures
from vfiohost.testing.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MODALIAS = "pci:v000010DEd00002236sv000010DEsd00001482bc03sc02i00"


@attrs.frozen
class Reader:
    """A target of the fuzzer.

    Attributes:
        name: of its corpus.
        what: what is read, for the table.
        run: reads an input.
        seeds: inputs to begin with, besides the corpus.
        words: what inputs are made of.
        share: its part of the time, in parts of the usual one.
    """

    name: str
    what: str
    run: Callable[[bytes], str]
    seeds: Callable[[], Sequence[bytes]]
    words: tuple[bytes, ...]
    share: float = 1.0


def text_of(data: bytes) -> str:
    """Text as Python makes it of arguments and file names."""
    return data.decode("utf-8", "surrogateescape")


def refused(error: ParseError) -> str:
    """A label: what the text should have been."""
    return f"refused: {error.expected[:60]}"


# -- recordings ----------------------------------------------------------------------------------


def read_recording(data: bytes) -> str:
    try:
        found = recording.parse(text_of(data))
    except ParseError as error:
        return refused(error)
    assert recording.parse(recording.format(found)) == found
    sections = (found.functions, found.groups, found.mdevs, found.modules, found.files)
    return f"recording {[len(section) for section in sections]}"


def recording_seeds() -> list[bytes]:
    files = fixtures._files()
    texts = [files[name].read_bytes() for name in ("mtty", "no-iommu")]
    return [text[:6000].rpartition(b"\n\n")[0] + b"\n" for text in texts]


# -- plans and journals --------------------------------------------------------------------------

EXPECTED = {"path": "sys/bus/pci/drivers/a/bind", "kind": "text", "value": "x"}
STORE = {"path": "sys/bus/pci/drivers/a/bind", "value": "0000:65:00.0", "after": EXPECTED}
PLAN = {
    "verb": "bind",
    "subjects": ["0000:65:00.0"],
    "steps": [
        {"kind": "load", "name": "vfio_pci", "after": None, "why": "it is needed"},
        {"kind": "write", **STORE, "before": EXPECTED, "undo": STORE, "why": "so"},
    ],
    "origins": [{"address": "0000:65:00.0", "driver": None, "driver_override": "x"}],
    "notes": ["a note"],
}
HEADER = {
    "schema": journal_entry.SCHEMA,
    "id": "j",
    "boot_id": "b",
    "time": "t",
    "pid": 1,
    "undoes": None,
    "plan": PLAN,
}
JSON_WORDS = (
    *(b'null true false {} [] "" 0 -1 1e999 NaN Infinity \\ud800 \\u0000 .. /'.split()),
    *(f'"{key}":'.encode() for key in (*HEADER, *PLAN, *STORE, "kind", "before", "undo", "why")),
    b'{"event": "pending", "time": "", "step": 0, "pid": 1, "start": 1}\n',
    b"9" * 5000,
    b"[" * 3000,
)


def read_journal(data: bytes) -> str:
    journal_entry.boot_id_of(data)
    ended = journal_entry.has_ended(data)
    try:
        entry = journal_entry.parse("j", data, "/j")
    except ParseError as error:
        return refused(error)
    assert str(entry).startswith(entry.plan.verb)
    waiting = entry.waiting()
    return f"{entry.result} {ended} {len(entry.done_plan.steps)} {len(waiting)}"


def journal_seeds() -> list[bytes]:
    events = [{"event": "begin", "step": 0}, {"event": "done", "step": 0}]
    events += [{"event": "pending", "step": 1, "error": "e", "pid": 1, "start": 5}]
    lines = [HEADER, *events, {"event": "end", "result": "committed"}]
    return ["".join(f"{json.dumps(line)}\n" for line in lines).encode()]


def read_plan(data: bytes) -> str:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return "no JSON"
    try:
        plan = Plan.from_json(value)
    except ParseError as error:
        return refused(error)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    for step in plan.steps:
        if isinstance(step, WriteAttr):
            assert step.path.startswith("sys/")
            assert ".." not in step.path.split("/")
            assert step.store.shell("/r").endswith(step.path) or "'" in step.store.shell("/r")
        elif isinstance(step, ChangeNodes):
            assert all(change.path.startswith("dev/vfio/") for change in step.changes)
            assert not any(".." in change.path for change in step.changes)
    return f"plan {len(plan.steps)} {len(plan.origins)}"


def read_lock(data: bytes) -> str:
    fd = os.memfd_create("lock")
    try:
        os.write(fd, data)
        busy = locking._busy(fd, "lock")
    finally:
        os.close(fd)
    return "nobody" if busy.holder is None else f"holder {busy.has_ended}"


# -- the simulation's state ----------------------------------------------------------------------


def read_state(data: bytes) -> str:
    try:
        state = State.from_text(text_of(data))
    except ParseError as error:
        return refused(error)
    assert State.from_text(state.to_text()) == state
    return f"state {len(state.pending)} {len(state.open_files)}"


def state_seeds() -> list[bytes]:
    return [State(drivers=["a"], results={"1": 16}, vfio_numbers={"x": 1}).to_text().encode()]


# -- names, aliases, types -----------------------------------------------------------------------

PCI_IDS = b"""\
10de  NVIDIA Corporation
\t2236  GA102GL [A10]
\t\t10de 1482  A10
C 03  Display controller
\t02  3D controller
"""


def read_pci_ids(data: bytes) -> str:
    names = PciNames(data)
    found = (
        names.full(0x10DE, 0x2236),
        names.subsystem(0x10DE, 0x2236, 0x10DE, 0x1482),
        names.class_name(0x030200),
        names.vendor(0x8086),
    )
    return " ".join(str("[" in name) for name in found)


def read_modules(data: bytes) -> str:
    alias, _, rest = text_of(data).partition("\n")
    index = ModuleIndex.from_texts(rest, rest.split())
    index.knows(alias)
    try:
        wanted = Modalias.parse(alias)
    except ParseError as error:
        return refused(error)
    assert Modalias.parse(str(wanted)) == wanted
    best = index.best_vfio_module(wanted)
    return f"{len(index.candidates(wanted))} {best is None}"


def read_type(data: bytes) -> str:
    text = text_of(data)
    described = VgpuDescription.parse(text)
    label = "".join(str(value is None)[0] for value in attrs.astuple(described))
    try:
        name = VgpuTypeName.parse(text)
    except ParseError as error:
        return f"{label} {refused(error)}"
    assert VgpuTypeName.parse(str(name)) == name
    return f"{label} {name.is_mig} {name.suffix}"


VGPU_FILE = b"""\
<vgpuconfig><vgpuType id="1155" name="NVIDIA L40S-24Q" class="Quadro">
<framebuffer>0x5A0000000</framebuffer><fbReservation>0x60000000</fbReservation>
<profileSize>0x600000000</profileSize></vgpuType>
<pgpu><devId vendorId="0x10de" deviceId="0x26B9" subsystemVendorId="0x10de" subsystemId="0x1"/>
<supportedVgpu vgpuId="1155"><maxVgpus>2</maxVgpus></supportedVgpu></pgpu></vgpuconfig>
"""


def read_vgpu_file(data: bytes) -> str:
    cards = parse_vgpu_config(text_of(data), range(1 << 16))
    types = [each for card in cards for each in card.types]
    sizes = sorted({each.framebuffer_mib is None for each in types})
    subsystems = sorted({card.subsystem_device_id is None for card in cards})
    return f"{min(len(cards), 2)} {min(len(types), 2)} {sizes} {subsystems}"


# -- the command line ----------------------------------------------------------------------------


@cache
def snapshot() -> Snapshot:
    with TemporaryDirectory() as folder:
        testing.expand(fixtures.load("a10-pair"), Path(folder) / "root")
        with Host(Path(folder) / "root") as host:
            return host.scan()


def read_selector(data: bytes) -> str:
    text = text_of(data)
    try:
        address = PciAddress.parse(text)
        assert PciAddress.parse(str(address)) == address
    except ParseError:
        pass
    try:
        return f"hits {len(select_all([text], snapshot()))}"
    except ParseError as error:
        return f"{refused(error)} {(error.hint or '')[:12]}"
    except (NotFoundError, AmbiguousError) as error:
        return type(error).__name__


def read_command(data: bytes) -> str:
    options = cli_options.Options()
    words = text_of(data).split("\n")
    try:
        cli_parser.parse(words, options)
        options.check()
        cli_reading._tests(options)
        cli_reading._columns(options.columns, names=True)
        for text in options.ids:
            cli_reading._group_number(text, snapshot())
    except ParseError as error:
        return f"{options.command} {refused(error)}"
    except (NotFoundError, UnsupportedError, cli_parser.Shown) as error:
        return f"{options.command} {type(error).__name__}"
    return f"{options.command}"


COMMANDS = """
    list groups show bind unbind restore recover undo record sim mdev types create remove
    --root --json -n --exit-code --allow --timeout --keep-going --color -q -v --no-names
    --vendor --class --driver --group -o --columns --why -p -t -u --attr -- - 65:00.0
    display 10de gpu always 1e5 nan +driver
"""

ALL = (
    Reader(
        "recording",
        "recordings: `recording.parse`",
        read_recording,
        recording_seeds,
        (
            *(b"function group module mdev file link directory like at = ".split(b" ")),
            *(b'none absent <usual> |*9999 !EACCES [0644] "\\xff" x\xc3\xa9'.split()),
            b"\n",
            b'"' * 2,
            "\u2028\x1c\x85".encode(),
        ),
        share=2,
    ),
    Reader("journal", "journals: `journal.entry.parse`", read_journal, journal_seeds, JSON_WORDS),
    Reader(
        "plan",
        "plans: `Plan.from_json`",
        read_plan,
        lambda: [json.dumps(PLAN).encode()],
        JSON_WORDS,
    ),
    Reader(
        "lock",
        "who holds the lock: `journal.locking`",
        read_lock,
        lambda: [b'{"pid": 1, "start": 5, "purpose": "bind", "since": "now"}\n'],
        JSON_WORDS,
    ),
    Reader("state", "a simulation's `state.json`", read_state, state_seeds, JSON_WORDS),
    Reader(
        "pci_ids",
        "`pci.ids`: `names.PciNames`",
        read_pci_ids,
        lambda: [PCI_IDS],
        (b"\n10de  ", b"\n\t2236  ", b"\n\t\t10de 1482  ", b"\nC 03  ", b"#", b"\r", b"\xff"),
    ),
    Reader(
        "modules",
        "a modalias and `modules.alias`: `modalias.ModuleIndex`",
        read_modules,
        lambda: [f"{MODALIAS}\nalias pci:v000010DEd*sv*sd*bc03sc*i* nvidia\n".encode()],
        (
            b"alias pci:",
            b"alias vfio_pci:",
            b"*",
            b"?",
            b"[!",
            b"]",
            b"v000010DEd",
            b"\n",
            b"*a" * 30,
        ),
    ),
    Reader(
        "vgpu_type",
        "names and descriptions of vGPU types: `nvidia`",
        read_type,
        lambda: [
            b"NVIDIA A10-8Q",
            b"GRID A100-1-5CME",
            b"num_heads=4, framebuffer=24576M, max_instance=1",
        ],
        (
            b"framebuffer=",
            b"max_resolution=",
            b"frl_config=",
            b",",
            b"M",
            "\u0663\u00b2".encode(),
            b"9" * 19,
        ),
    ),
    Reader(
        "vgpu_file",
        "`vgpuConfig.xml` of NVIDIA's vGPU host driver: `nvidia.parse_vgpu_config`",
        read_vgpu_file,
        lambda: [VGPU_FILE, VGPU_FILE.replace(b"0x1", b"0x0"), VGPU_FILE[160:]],
        (
            b"<pgpu>",
            b"</pgpu>",
            b'<vgpuType id="7" name="a">',
            b"</vgpuType>",
            b'<supportedVgpu vgpuId="7"><maxVgpus>1</maxVgpus>',
            b"<profileSize>0x1</profileSize>",
            b'<!ENTITY a "&a;&a;">',
            b"&a;",
            b" " * 5000,
            b"<pgpu " * 3000,
        ),
    ),
    Reader(
        "selector",
        "selectors of devices: `selectors`, `PciAddress.parse`",
        read_selector,
        lambda: [
            b"0000:65:00.0",
            b"65:00.*",
            b"class:gpu:0",
            b"10de:2236",
            b"group:12",
            b"[0-3]:*",
        ],
        (b"class:", b"group:", b":", b".", b"*", b"?", b"[!", b"]", "\u0663".encode(), b"9" * 5000),
    ),
    Reader(
        "command",
        "the command line: `cli.parser`, `cli.options`",
        read_command,
        lambda: [
            b"list\n--class\ngpu\n-o\n+driver",
            b"groups\n12",
            b"list\n--group\n1",
            b"mdev\ncreate\n-p\na\n-t\nb",
        ],
        (
            *(f"{word}\n".encode() for word in COMMANDS.split()),
            b"9" * 5000,
            b"=",
            "\u0663".encode(),
        ),
    ),
    Reader(
        "host",
        "whole roots: `Host.scan`, details, tables, JSON",
        hosts.read_host,
        hosts.seeds,
        hosts.WORDS,
        share=4,
    ),
)
