"""The table of what became of each fault, in ``docs/fault-injection.md``."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.trial import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.places import Verdict

COLUMNS = ("", "injected", *OUTCOMES)
FILE = Path(__file__).parents[2] / "docs" / "fault-injection.md"

HEAD = """\
# What goes wrong, and what becomes of the host

Each fault is injected once at every place where it can strike: at each line of the journal, at each
store, and at each store of the `recover` that follows. Then `vfiohost recover` runs, as often as it
is told to, and the whole host is compared with what it was before the command and with what the
command makes of it: drivers, overrides, groups, virtual functions, mediated devices and their
counts, VFIO nodes with owner and mode, NVIDIA's `unbindLock`, reset methods. Not compared are the
attributes that `mdev create --attr` sets: no rule says how they read back.

| outcome | the host in the end |
|---|---|
| before | is as it was before the command |
| completed | is as the command makes it, and no failure was reported |
| named | is neither; the lines that were printed, pasted, bring it back, and `recover` says so |
| lost | is neither, and what was named does not bring it back; or the next plan is blocked |
| silent | is not as the exit code says |

Loaded modules do not count: they stay loaded, since to unload one unbinds devices. *No effect* is a
store that the kernel accepts without doing it, *late* one that comes back after `--timeout`, *kill*
a SIGKILL of vfiohost, *helper killed* one of the process that stores for it. `journal:` is about
the file that a kill has left, `recover:` about a recovery after a kill behind the last store.

The tables are written by `python -m tests.faults` (the simulation) and
`python -m tests.faults --kernel 6.12` (the lab); `tests/faults` tests a part of each.
"""


def write(place: str, title: str, verdicts: Sequence[Verdict], seconds: float) -> None:
    """Replace the part of the document that is about one place.

    Args:
        place: ``simulation``, or the kernel's flavour.
        title: what it was.
        verdicts: one for each fault.
        seconds: how long it took.
    """
    found = Counter(verdict.outcome for verdict in verdicts)
    counts = ", ".join(f"{found[outcome]} {outcome}" for outcome in OUTCOMES)
    text = "\n".join(
        [
            f"## {title}",
            "",
            f"{len(verdicts)} faults in {seconds:.0f} s: {counts}.",
            "",
            *_table("fault", verdicts, lambda verdict: verdict.kind),
            "",
            *_table("command", verdicts, lambda verdict: verdict.scenario),
        ]
    )
    parts = _parts()
    parts[place] = text
    sections = (f"<!-- {name} -->\n{part}\n<!-- end -->\n" for name, part in parts.items())
    FILE.write_text("\n".join([HEAD, *sections]))


def _parts() -> dict[str, str]:
    """The parts of the document that there is, by place."""
    text = FILE.read_text() if FILE.exists() else ""
    return dict(re.findall(r"<!-- (\S+) -->\n(.*?)\n<!-- end -->", text, flags=re.DOTALL))


def _table(head: str, verdicts: Sequence[Verdict], key: Callable[[Verdict], str]) -> list[str]:
    lines = [f"| {head}{' | '.join(COLUMNS)} |", f"|---|{'--:|' * (len(COLUMNS) - 1)}"]
    for name in dict.fromkeys(map(key, verdicts)):
        found = Counter(verdict.outcome for verdict in verdicts if key(verdict) == name)
        cells = (str(found[outcome]) for outcome in OUTCOMES)
        lines.append(f"| {name} | {found.total()} | {' | '.join(cells)} |")
    return lines
