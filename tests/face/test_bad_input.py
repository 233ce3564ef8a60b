"""Bad command lines: an exit code, one sentence that names what is wrong, never a traceback."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from vfiohost.cli.options import ALLOW_WORDS
from vfiohost.plan.hazards import ALLOWABLE

if TYPE_CHECKING:
    from tests.face.support import Maker, Runner

UUID = "b716be33-2f53-4a1c-9d3c-2f2a5f3e8a10"

# The line, the exit code, and what the sentence has to say.
LINES: list[tuple[str, int, str]] = [
    ("", 2, "needs a verb"),
    ("lst", 2, "Did you mean list"),
    ("bnid 65:00.0", 2, "Did you mean bind"),
    ("frobnicate", 2, "'frobnicate' is not a verb of vfiohost (list, ls, groups"),
    ("mdev", 2, "needs a verb"),
    ("mdev creat", 2, "Did you mean create"),
    ("mdev --json-x list", 2, "'--json-x' is not an option"),
    ("list --jsn", 2, "Did you mean --json"),
    ("list --why", 2, "'--why' is not an option of vfiohost list"),
    ("bind 65:00.0 --dirver x", 2, "Did you mean --driver"),
    ("bind 65:00.0 -x", 2, "'-x' is not an option of vfiohost bind"),
    ("bind", 2, "needs DEV"),
    ("unbind", 2, "needs DEV"),
    ("restore", 2, "either DEV or --all"),
    ("restore --all 65:00.0", 2, "either DEV or --all"),
    ("bind 65:00.0 --driver", 2, "takes one value"),
    ("list --json=yes", 2, "--json"),
    ("list --color sometimes", 2, "(auto, always, never)"),
    ("list --color alway", 2, "Did you mean always"),
    ("list --timeout 0", 2, "--timeout: '0' is not a number of seconds above 0"),
    ("list --timeout -3", 2, "--timeout"),
    ("list --timeout=-3", 2, "--timeout: '-3'"),
    ("list --timeout nan", 2, "--timeout: 'nan'"),
    ("list --timeout inf", 2, "--timeout: 'inf'"),
    ("list --timeout soon", 2, "--timeout: 'soon'"),
    ("bind 65:00.0 --allow dispaly", 2, "Did you mean display"),
    ("bind 65:00.0 --allow display,everything", 2, "'everything' is not a word of --allow"),
    ("list -o address,nmae", 2, "name"),
    ("list -o ,", 2, "'' is not a column"),
    ("list --vendor nvidia", 2, "--vendor: 'nvidia' is not a vendor id"),
    ("list --class gpuu", 2, "--class: 'gpuu' is not a class: a hexadecimal code (0302) or a name"),
    ("list --class gup", 2, "Did you mean gpu?"),
    ("list --class gpu:0", 2, "--class: 'gpu:0' is not a class"),
    ("list --group twelve", 2, "--group: 'twelve' is not the number of an IOMMU group"),
    ("list --group ²", 2, "--group"),
    (f"list --group {'9' * 5000}", 2, "is not the number of an IOMMU group"),
    (f"groups {'9' * 5000}", 2, "is not the number of an IOMMU group"),
    (f"groups {'0' * 5000}1", 2, "is not the number of an IOMMU group"),
    ("groups twelve", 2, "'twelve'"),
    ("groups 99", 3, "There is no IOMMU group '99'"),
    ("groups -1", 2, "'-1' is not the number of an IOMMU group"),
    ("list 65:00", 2, "65:00.0"),
    ("list 65:00.9", 2, "function 0 to 7"),
    ("list 0000:65:00.0x", 2, "'0000:65:00.0x'"),
    ("list 65:00.1", 3, "0000:65:00.0"),
    ("list 10de:2237", 3, "10de:2236"),
    ("list group:99", 3, "group:"),
    ("list class:nvme:7", 3, "class:nvme:7"),
    ("list class:gppu", 2, "class:gpu"),
    ("list all", 2, "'all'"),
    ("list nouveau\x1b[31m", 2, "nouveau\\x1b[31m"),
    ("list \udcff", 2, "\\udcff"),
    ("list \u202e65:00.0", 2, "\\u202e"),
    ("bind 65:00.0,ca:00.0", 2, "Name several devices as several words"),
    ("bind 65:00.0 vfio-pci", 2, "'vfio-pci'"),
    ("bind 65:00.0 --driver vfio/pci", 2, "'vfio/pci'"),
    ("bind 65:00.0 --driver vfio_pci", 4, "vfio-pci"),
    ("bind 65:00.0 --driver nouveaux", 4, "Did you mean nouveau"),
    ("bind 65:00.1", 3, "0000:65:00.0"),
    ("undo 1 2", 2, "'2' is not expected by vfiohost undo"),
    ("undo ../../etc/passwd", 3, "'../../etc/passwd'"),
    ("recover now", 2, "'now' is not expected by vfiohost recover"),
    ("mdev types extra", 2, "'extra' is not expected by vfiohost mdev types"),
    ("mdev types -p 65:00.0", 3, "There is no parent of mediated devices '65:00.0'"),
    ("mdev create -t mtty-1", 2, "needs -p PARENT"),
    ("mdev create -p mtty", 2, "needs -t TYPE"),
    ("mdev create -p mtty -t mtty-1 -n", 2, "A dry run is --dry-run here"),
    ("mdev create -p mtty -t mtty-1 -n 0", 2, "-n: '0' is not a number of devices from 1"),
    ("mdev create -p mtty -t mtty-1 -n 99999999999999999999", 2, "-n: "),
    ("mdev create -p mtty -t mtty-1 -n 1000000", 2, "-n: "),
    ("mdev create -p mtty -t mtty-1 -n 000000001999999", 2, "-n: "),
    (f"mdev create -p mtty -t mtty-1 -n {'0' * 5000}{'9' * 5000}", 2, "-n: "),
    ("mdev create -p mtty -t mtty-1 -n 00000000000009", 3, "mtty"),
    ("mdev create -p mtty -t mtty-1 -n two", 2, "-n: 'two'"),
    (f"mdev create -p mtty -t mtty-1 -n 2 -u {UUID}", 2, "one UUID"),
    ("mdev create -p mtty -t mtty-1 --attr novalue", 2, "--attr: 'novalue'"),
    ("mdev create -p mtty -t mtty-1 --attr =x", 2, "--attr: '=x'"),
    ("mdev create -p mtty -t mtty-1 -u 1234", 2, "'1234' is not a UUID"),
    ("mdev create -p mtty -t mtty-1", 3, "There is no parent of mediated devices 'mtty'"),
    ("mdev remove", 2, "needs UUID"),
    ("mdev remove 1234", 2, "'1234' is not a UUID"),
    (f"mdev remove {UUID}", 3, "There is no mediated device"),
    ("record", 2, "needs FILE"),
    ("record ", 2, "FILE: '' is not the name of a file"),
    ("record a b", 2, "'b' is not expected by vfiohost record"),
    ("record a --title", 2, "takes one value"),
    ("record a --title=", 2, "--title: '' is not one line of text"),
    ("record a --title=b\nc", 2, "--title: 'b\\nc' is not one line of text"),
    ("record a --with-confg", 2, "Did you mean --with-config"),
    ("record a --force", 2, "'--force' is not an option of vfiohost record"),
    ("record /nowhere/a", 1, "/nowhere/a: No such file or directory."),
    ("record / --overwrite", 4, "/ is no regular file"),
    ("sim", 2, "needs HOST and DIR"),
    ("sim a10-pair", 2, "needs HOST and DIR"),
    ("sim a b c", 2, "'c' is not expected"),
    ("sim --list a10-pair", 2, "'a10-pair' is not expected by vfiohost sim --list"),
    ("sim no-such-host-at-all /nowhere/x", 3, "no-such-host-at-all"),
    ("sim a10-pai /nowhere/x", 3, "a10-pair"),
]


@pytest.mark.parametrize(("line", "code", "said"), LINES, ids=[repr(x[0]) for x in LINES])
def test_one_sentence(line: str, code: int, said: str, run: Runner, recorded: Maker) -> None:
    root = recorded("a10-pair")
    ran = run(*line.split(" ") if line else (), root=root)
    assert ran.out == ""
    assert ran.code == code, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert ran.err.isprintable() or re.fullmatch(r"[^\x00-\x09\x0b-\x1f]*", ran.err)
    if code == 2:
        assert ran.err.startswith("vfiohost: ")
        assert ran.err.count("\n") == 1
    json = run(*line.split(" ") if line else (), "--json", root=root)
    assert json.err == ""
    assert json.value["exit_code"] == code
    assert json.value["error"]["message"]


def test_no_such_root(run: Runner, recorded: Maker) -> None:
    gone = recorded("mtty") / "gone"
    ran = run("list", root=gone)
    assert (ran.code, ran.out) == (3, "")
    assert f"There is no root directory '{gone}'" in ran.err
    file = recorded("mtty") / "proc/sys/kernel/osrelease"
    assert run("list", root=file).code == 3


@pytest.mark.parametrize("verb", [["list"], ["bind", "65:00.0"], ["recover"]])
def test_an_empty_root_is_not_this_machine(verb: list[str], run: Runner) -> None:
    ran = run("--root", "", *verb)
    assert (ran.code, ran.out) == (3, "")
    assert "There is no root directory ''" in ran.err


def test_globals_before_and_after_the_verb(run: Runner, recorded: Maker) -> None:
    root = str(recorded("a10-pair"))
    before = run("--root", root, "--json", "--no-names", "list", "65:00.0")
    after = run("list", "65:00.0", "--no-names", "--json", "--root", root)
    between = run("--json", "list", "--root", root, "65:00.0", "--no-names")
    assert before.value == after.value == between.value
    plan = run("-n", "mdev", "--root", root, "create", "-p", "mtty", "-t", "x", "--json")
    assert plan.value["error"]["code"] == "not-found"
    allowed = run("--allow", "displax", "bind", "65:00.0", "--allow", "display", "--root", root)
    assert "'displax'" in allowed.err


def test_each_word_of_allow_permits_something() -> None:
    assert set(ALLOW_WORDS) == ALLOWABLE


def test_words_after_options_count(run: Runner, recorded: Maker) -> None:
    root = recorded("a10-pair")
    value = run("list", "65:00.0", "--driver", "none", "ca:00.0", "--json", root=root).value
    assert [d["address"] for d in value["devices"]] == ["0000:65:00.0", "0000:ca:00.0"]
    assert run("list", "--", "65:00.0", root=root).code == 0


def test_help_and_version(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert 80 < max(map(len, run("bind", "-h").out.splitlines())) <= 120
    monkeypatch.setenv("COLUMNS", "80")
    for line in ("--help", "-h", "bind --help", "mdev --help", "mdev create -h", "record -h"):
        ran = run(*line.split())
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith("usage: vfiohost")
        assert run(*line.split(), "--json").value["help"] == ran.out
        assert max(map(len, ran.out.splitlines())) <= 80
    for line in ("bind -h", "unbind -h"):
        assert " DEV [DEV ...]\n" in run(*line.split()).out
    assert " UUID [UUID ...]\n" in run("mdev", "remove", "-h").out
    assert "exit codes:" in run("--help").out
    assert run("--version").out == f"vfiohost {run('--version', '--json').value['version']}\n"


def test_a_verb_that_only_reads_shows_no_options_of_writing(run: Runner) -> None:
    writing = ("--allow", "--keep-going", "--dry-run", "--exit-code", "--timeout")
    reading = ("list -h", "ls -h", "groups -h", "mdev types -h", "mdev list -h", "record -h")
    for line in reading:
        shown = run(*line.split()).out
        assert [option for option in writing if option in shown] == []
        assert "--root DIR" in shown
    for line in ("bind -h", "mdev create -h"):
        shown = run(*line.split()).out
        assert [option for option in writing if option in shown] == list(writing)
