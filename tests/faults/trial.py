"""One fault in one command, what ``recover`` makes of it, and what the host is like in the end.

Called in the guest of the lab, too: arguments and results are what JSON carries.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from tests.faults import strike, tamper
from tests.kernel.lab import hoststate
from tests.kernel.lab.layout import EDU
from vfiohost import testing
from vfiohost.errors import KernelError, LockBusyError
from vfiohost.journal import Journal, JournalEntry, lock
from vfiohost.sysfs import Sysfs

TIMEOUT = "8"
PENDING, HALF_WAY, LOCK_BUSY = 6, 7, 8
_AS_BEFORE = "the host is as it was before"
_SHELL = ("printf", "echo", "chmod", "chown", "d=")

OUTCOMES = ("before", "completed", "named", "lost", "silent")
"""What can become of the host: it is as it was; it is as the command makes it; it is neither, and
the commands that were named bring it back; it is neither and they do not; it is not as the exit
code says."""


def state(root: str) -> dict[str, str]:
    """The whole host, but for what nobody can bring back.

    Modules stay loaded, since unloading one unbinds devices; and the number of its group is what
    the kernel gives a mediated device that is made again (the lowest that is free).
    """
    found: dict[str, str] = {}
    for key, value in hoststate.read(root).items():
        is_of_mdev = key.startswith("group ") and "-" in value
        if is_of_mdev or (key.startswith("driver ") and not value):
            continue
        found[key] = value.rpartition(" ")[0] if key.startswith("mdev ") else value
    return found | _nodes(root) | _attributes(root)


def _nodes(root: str) -> dict[str, str]:
    """Owner and mode of each VFIO node."""
    found = {}
    for folder in ("dev/vfio", "dev/vfio/devices"):
        for path in sorted(Path(root, folder).glob("*")):
            now = path.stat()
            found[f"/{folder}/{path.name} owner"] = f"{now.st_uid}:{now.st_gid} {now.st_mode:o}"
    return found


def _attributes(root: str) -> dict[str, str]:
    """Files besides, that plans store to."""
    patterns = (
        "proc/driver/nvidia/gpus/*/unbindLock",
        "sys/bus/pci/devices/*/reset_method",
    )
    files = [path for pattern in patterns for path in sorted(Path(root).glob(pattern))]
    return {str(path.relative_to(root)): path.read_text() for path in files}


def prepare(root: str, commands: list[list[str]], unload: str) -> None:
    """Bring a host that is in its first state to where a scenario begins."""
    for command in commands:
        done = strike.run(root, command)
        assert done["code"] == 0, done
    if unload and root == "/":
        assert os.system(f"modprobe -r {unload}") == 0
    elif unload:
        testing.SimulatedKernel(root).unload_module(unload, timeout=5)


def rehearse(root: str, command: list[str]) -> dict[str, Any]:
    """Carry a command out without a fault: its counts, and the states around it."""
    before = state(root)
    done = strike.run(root, command)
    assert done["code"] == 0, done
    return {**done, "before": before, "after": state(root)}


def attempt(
    root: str, command: list[str], fault: list[Any], states: list[dict[str, str]]
) -> list[str]:
    """Let one command meet a fault, recover, and judge.

    Args:
        root: the host, where the scenario begins.
        command: the arguments.
        fault: kind and number; of what a command or, with ``recover: ``, its recovery meets.
        states: the host before the command and after it, when nothing goes wrong.

    Returns:
        One of :data:`OUTCOMES`, and what was said and seen.
    """
    kind, at = fault
    if kind.startswith(("recover: ", "journal: ")):
        phase, _, kind = kind.partition(": ")
        first = strike.run(root, ["--timeout", TIMEOUT, *command], ("kill after the store", at[0]))
        said = [_told(first)]
        texts = tamper.journals(root)
        if phase == "journal":
            if not tamper.tamper(root, kind):
                return ["before", "the journal has no such line"]
            return _judge_tampered(root, kind, texts, states, said)
        said += _recover_with(root, kind, at[1])
    elif kind == "lock held by another":
        with Sysfs(root) as sysfs, lock(sysfs, purpose="a test"):
            first = strike.run(root, ["--timeout", "0.2", *command])
        assert first["code"] == LOCK_BUSY, first
        said = [_told(first)]
    else:
        first = strike.run(root, ["--timeout", TIMEOUT, *command], (kind, at[0]))
        said = [_told(first)]
    return _judge(root, first, states, said)


def _recover_with(root: str, kind: str, at: int) -> list[str]:
    if kind != "two at once":
        return [_told(strike.run(root, ["--timeout", TIMEOUT, "recover"], (kind, at)))]
    done: list[str] = []

    def recover() -> None:
        done.append(_told(strike.run(root, ["--timeout", TIMEOUT, "recover"])))

    threads = [threading.Thread(target=recover) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(told.startswith("exit 0:") for told in done), done  # the second one waits
    return done


def _judge(
    root: str, first: dict[str, Any], states: list[dict[str, str]], said: list[str]
) -> list[str]:
    """Recover until nothing is pending, and see what the host has become.

    Whatever it is, the next plan must not find a journal open or the lock taken.
    """
    last = _recover(root, said)
    in_the_way = _in_the_way(root)
    if in_the_way:
        return ["lost", "\n".join([*said, in_the_way])]
    before, after = states
    now = state(root)
    detail = "\n".join(said)
    claimed = first["code"] == 0
    if now == before:
        is_honest = (not claimed or before == after) and last["code"] == 0
        return ["before" if is_honest else "silent", detail]
    commands = _commands(said)
    if now == after and not commands:
        # A kill may come after the last line; a failure that has happened must not look done.
        is_honest = claimed or first["code"] == -signal.SIGKILL
        is_honest = is_honest and (before == after or _AS_BEFORE not in last["said"])
        return ["completed" if is_honest else "silent", detail]
    differs = {k: v for k, v in now.items() if before.get(k) != v}
    detail += f"\n{differs}"
    if not commands:
        return ["lost", detail]
    _by_hand(root, commands)
    left = state(root)
    seen = strike.run(root, ["recover"])  # which has told of it until now
    detail += f"\nby hand: {commands}\n{_told(seen)}"
    return ["named" if left == before and seen["code"] == 0 else "lost", detail]


def _in_the_way(root: str) -> str:
    """What would keep the next plan from being carried out, about whatever device."""
    with Sysfs(root) as sysfs:
        entries = Journal(sysfs).open_entries()
        if entries:
            return f"left open: {', '.join(map(str, entries))}"
        try:
            with lock(sysfs, purpose="a look"):
                return ""
        except LockBusyError as busy:
            return str(busy)


def _recover(root: str, said: list[str]) -> dict[str, Any]:
    """Run ``recover``; while a helper waits it must say so, and is run again after that."""
    while True:
        helpers = _helpers(root)
        last = strike.run(root, ["--timeout", TIMEOUT, "recover"])
        said.append(_told(last))
        if last["code"] != PENDING:
            return last
        assert helpers, last
        deadline = time.monotonic() + 20
        while _helpers(root):
            assert time.monotonic() < deadline, "a helper does not end"
            time.sleep(0.05)


def _helpers(root: str) -> list[int]:
    """The helpers that open journals know of, and that still wait."""
    with Sysfs(root) as sysfs:
        found = []
        for entry in Journal(sysfs).open_entries():
            for _, helper in entry.waiting() if isinstance(entry, JournalEntry) else ():
                found.append(helper.pid)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(helper.pid, os.WNOHANG)
        return found


def _judge_tampered(
    root: str, kind: str, texts: dict[str, str], states: list[dict[str, str]], said: list[str]
) -> list[str]:
    """A journal that cannot be trusted must be named, and nothing be done by it."""
    left = state(root)
    last = strike.run(root, ["recover"])
    said.append(_told(last))
    if kind == "torn":
        return _judge(root, {"code": -signal.SIGKILL}, states, said)
    if state(root) != left:
        return ["lost", "\n".join(said)]
    name = max(texts)
    if kind == "another boot":
        is_told = last["code"] == 0 and "other-boot" in last["said"]
    else:
        is_told = last["code"] == 1 and name in last["said"]
        again = strike.run(root, ["bind", EDU])  # until somebody has looked, nothing is done
        is_told = is_told and again["code"] == 1 and "damaged" in again["said"]
    tamper.put_back(root, texts)
    strike.run(root, ["recover"])
    now = state(root)
    if now not in states:
        differs = {k: v for k, v in now.items() if states[0].get(k) != v}
        return ["lost", "\n".join([*said, str(differs)])]
    return ["named" if is_told else "silent", "\n".join(said)]


def _commands(said: list[str]) -> list[str]:
    """The lines to finish by hand, of the last one who said that the host is half-way."""
    for text in reversed(said):
        if text.startswith(f"exit {HALF_WAY}:"):
            lines = (line.strip() for line in text.splitlines() if line.startswith("  "))
            return [line for line in lines if line.startswith(_SHELL)]
    return []


def _by_hand(root: str, commands: list[str]) -> None:
    """Do what a person would: paste the lines. A simulated kernel is no shell's to store to."""
    for line in commands:
        if root == "/" or not line.startswith(("printf", "echo")):
            subprocess.run(["sh", "-c", line], check=False)
            continue
        words = shlex.split(line)
        value = "\n" if words[0] == "echo" else words[2]
        path = str(Path(words[-1]).relative_to(root))
        with contextlib.suppress(KernelError):
            testing.SimulatedKernel(root).store(path, value, timeout=10)


def _told(done: dict[str, Any]) -> str:
    return f"exit {done['code']}: {done['said'].strip()}"
