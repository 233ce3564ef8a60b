"""docs/vfiohost.1: made of the grammar, with every verb and option, and good roff.

``VFIOHOST_UPDATE_GOLDEN=1`` makes it anew.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import vfiohost
from vfiohost.cli import parser
from vfiohost.cli.failing import EXIT_CODES
from vfiohost.cli.manual import manual

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "vfiohost.1"
MADE = manual(vfiohost.__version__)


def sections() -> dict[str, str]:
    """The text of each section and each verb, without fonts, by its heading."""
    text = re.sub(r"\\f[BIR]", "", MADE).replace(r"\-", "-")
    parts = re.split(r"^\.S[HS] (.*)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def entries(section: str) -> set[str]:
    """What a list in a section explains: words and codes, and options without their values."""
    tags = re.findall(r"^\.TP\n(.*)$", section, re.MULTILINE)
    return {re.sub(r"(--[\w-]+) .*", r"\1", tag) for tag in tags}


def options(words: list[str]) -> list[argparse.Action]:
    """All that can stand behind a verb, as its own help has it."""
    found: argparse.ArgumentParser = parser.build(words)
    for word in words:
        (verbs,) = (a for a in found._actions if isinstance(a, argparse._SubParsersAction))
        found = verbs.choices[word]
    return [a for a in found._actions if a.help != argparse.SUPPRESS]


def verbs(words: list[str]) -> Iterator[list[str]]:
    """Every verb, as the help of the command lists them: not by what the page was made of."""
    for action in options(words):
        if isinstance(action, argparse._SubParsersAction):
            for listed in action._choices_actions:
                yield from verbs([*words, listed.dest.split()[0]])
            return
    yield words


SECTIONS = sections()
VERBS = list(verbs([]))


def test_the_page_is_what_the_grammar_says() -> None:
    if os.environ.get("VFIOHOST_UPDATE_GOLDEN"):
        PAGE.write_text(MADE)
    assert PAGE.read_text() == MADE


def test_it_has_the_verbs_that_there_are() -> None:
    assert {" ".join(words) for words in VERBS} == {name for name in SECTIONS if name.islower()}
    assert ["list"] in VERBS
    assert ["mdev", "create"] in VERBS


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_it_has_every_option_of_a_verb(words: list[str]) -> None:
    section = SECTIONS[" ".join(words)]
    synopsis = section.partition(".PP")[0]
    own = entries(section)
    for action in options(words):
        names = action.option_strings or [str(action.metavar)]
        # Where -n is something else, the dry run has its long name alone.
        if not entries(SECTIONS["OPTIONS OF EVERY VERB"]) & {", ".join(names), f"-n, {names[0]}"}:
            assert ", ".join(names) in own
            assert names[-1] in synopsis


def test_it_has_the_exit_codes_that_users_meet() -> None:
    told = {int(code) for code in entries(SECTIONS["EXIT STATUS"])}
    assert told == ({0, 10, 11} | set(EXIT_CODES.values())) - {70, 130}


def test_it_is_ascii_and_no_text_is_a_request() -> None:
    assert MADE.isascii()
    requests = set(re.findall(r"^[.'](\S*)", MADE, re.MULTILINE))
    assert requests == {'\\"', "TH", "SH", "SS", "TP", "PP"}


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_mandoc_has_nothing_to_say_against_it() -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint"], input=MADE, capture_output=True, text=True, check=False
    )
    # Without a date it is the same whenever it is made.
    told = [line for line in done.stdout.splitlines() if "missing date" not in line]
    assert told == []
