"""Prepare images, run one command in a guest, or record the fixtures that come from the lab.

``python -m tests.kernel.lab prepare [FLAVOUR ...]``
``python -m tests.kernel.lab run FLAVOUR COMMAND [ARGUMENT ...]``
``python -m tests.kernel.lab fixtures [NAME ...]``
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.kernel.lab import fixtures, guest
from tests.kernel.lab.flavours import FLAVOURS, prepare
from tests.kernel.lab.hosts import HOSTS
from tests.kernel.lab.vm import Machine


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("prepare", help="download and build what the lab boots")
    verb.add_argument("flavours", nargs="*", metavar="FLAVOUR", type=_flavour)
    verb = verbs.add_parser("run", help="boot, run one command, and end the machine")
    verb.add_argument("flavour", choices=FLAVOURS)
    verb.add_argument("command", nargs=argparse.REMAINDER)
    verb = verbs.add_parser("fixtures", help="record them again, all or those that are named")
    verb.add_argument("names", nargs="*", metavar="NAME", type=_host)
    arguments = parser.parse_args()
    if arguments.verb == "fixtures":
        image = prepare(fixtures.FLAVOUR)
        for name in arguments.names or HOSTS:
            started = time.monotonic()
            file = fixtures.write(name, image)
            sys.stdout.write(f"{file}: {time.monotonic() - started:.1f} s\n")
        return 0
    if arguments.verb == "prepare":
        for flavour in arguments.flavours or FLAVOURS:
            started = time.monotonic()
            image = prepare(flavour)
            took = time.monotonic() - started
            sys.stdout.write(f"{flavour}: {image.kernel.release}, {took:.1f} s\n")
        return 0
    started = time.monotonic()
    with Machine(prepare(arguments.flavour)) as machine:
        sys.stderr.write(f"{machine.release} after {time.monotonic() - started:.1f} s\n")
        done = machine.call(guest.run, arguments.command, within=600)
    sys.stdout.write(done["stdout"])
    sys.stderr.write(done["stderr"])
    return int(done["status"])


def _flavour(text: str) -> str:
    # Not with `choices`: what these say of an empty list differs from Python to Python.
    if text not in FLAVOURS:
        raise argparse.ArgumentTypeError(f"no {text}; there are {', '.join(FLAVOURS)}")
    return text


def _host(text: str) -> str:
    if text not in HOSTS:
        raise argparse.ArgumentTypeError(f"no {text}; there are {', '.join(HOSTS)}")
    return text


if __name__ == "__main__":
    sys.exit(main())
