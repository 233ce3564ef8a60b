"""The tree below the rules: what a change shows before and after it is made; how text is read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.pictures import picture
from vfiohost.testing import kernel_text
from vfiohost.testing.redo import apply_operations
from vfiohost.testing.tree import Tree

NAMES = ["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b"]
PATHS = st.sampled_from(NAMES)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PATHS, st.sampled_from(["", "1\n", "\udcff"])),
        st.tuples(st.just("link"), PATHS, PATHS),
        st.tuples(st.just("mkdir"), PATHS),
        st.tuples(st.just("remove"), PATHS),
    ),
    max_size=8,
)
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


def collect(tree: Tree, changes: list[tuple[str, ...]]) -> None:
    for verb, *rest in changes:
        before = tree.savepoint()
        try:
            getattr(tree, verb)(*rest)
        except (IsADirectoryError, NotADirectoryError):
            tree.roll_back(before)


def view(tree: Tree) -> dict[str, tuple[object, ...]]:
    return {
        path: (tree.kind(path), tree.content(path), tree.target(path), tree.listing(path))
        for path in ["", *NAMES]
    }


@settings(max_examples=150)
@given(first=CHANGES, second=CHANGES, cut=st.integers(0, 20))
def test_what_a_change_shows_is_what_it_makes_however_often_it_is_interrupted(
    first: list[tuple[str, ...]], second: list[tuple[str, ...]], cut: int
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        root = Path(directory)
        (root / "new").mkdir()
        rootfd = os.open(root, os.O_RDONLY)
        try:
            tree = Tree(rootfd)
            collect(tree, first)
            apply_operations(rootfd, "new", tree.operations())
            tree.close()

            tree = Tree(rootfd)
            collect(tree, second)
            promised, operations = view(tree), tree.operations()
            tree.close()
            for part in (operations[:cut], operations):  # cut short, then all of it again
                apply_operations(rootfd, "new", part)
            tree = Tree(rootfd)
            assert view(tree) == promised
            tree.close()
            made = picture(root)
            apply_operations(rootfd, "new", operations)
            assert picture(root) == made
        finally:
            os.close(rootfd)


def test_text_is_added_once_however_often_it_is_repeated(scratch: Path) -> None:
    (scratch / "new").mkdir()
    (scratch / "log").write_text("one\n")
    rootfd = os.open(scratch, os.O_RDONLY)
    tree = Tree(rootfd)
    tree.append("log", "two\n")
    for _ in range(3):
        apply_operations(rootfd, "new", tree.operations())
    tree.close()
    os.close(rootfd)
    assert (scratch / "log").read_text() == "one\ntwo\n"


@given(st.integers(0, 0xFFFF))
def test_numbers_are_read_in_each_of_their_forms(number: int) -> None:
    for text in (f"{number}", f"+{number}", f"{number}\n", f"{number:#x}", f"0{number:o}"):
        assert kernel_text.unsigned(text.encode(), bits=16) == number
    assert kernel_text.unsigned(f"0X{number:X}\0rest".encode(), bits=16) == number
    for text in (f"-{number}", f"{number} ", f" {number}", f"{number}\n\n", f"{number}x"):
        assert kernel_text.unsigned(text.encode(), bits=16) is None
    assert kernel_text.unsigned(str(number + 0x10000).encode(), bits=16) is None


@given(st.binary(max_size=40))
def test_whatever_is_written_is_read_without_an_error(data: bytes) -> None:
    number = kernel_text.unsigned(data, bits=64)
    assert number is None or 0 <= number < 1 << 64
    assert len(kernel_text.hex_fields(data, most=7)) <= 7
    uuid = kernel_text.uuid(data)
    assert uuid is None or (len(data) in (36, 37) and uuid == uuid.lower())
    assert kernel_text.name(data).count("\n") <= data.count(b"\n")


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"10de 2236", [0x10DE, 0x2236]),
        (b"  0x10de\t0X2236\n", [0x10DE, 0x2236]),
        (b"10de:2236", [0x10DE]),
        (b"1 2 3 4 5 6 7 8", [1, 2, 3, 4, 5, 6, 7]),
        (b"123456789", [0x23456789]),
        (b"-1 2", []),
        (b"1 x 2", [1]),
    ],
)
def test_fields_are_read_as_sscanf_reads_them(data: bytes, fields: list[int]) -> None:
    assert kernel_text.hex_fields(data, most=7) == fields


def test_a_page_is_all_that_arrives() -> None:
    assert len(kernel_text.one_page(b"x" * 5000)) == 4096
