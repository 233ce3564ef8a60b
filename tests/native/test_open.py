"""Opens that cannot leave the root: by openat2, and by our own walk, which must do the same."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfiohost import native
from vfiohost.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Iterator

BOTH = pytest.mark.parametrize("fallback", [False, True], ids=["openat2", "walk"])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    return tmp_path / "outside"


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Iterator[int]:
    folder = tmp_path / "root"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_text("inside")
    (folder / "outside").mkdir()
    (folder / "outside/secret").write_text("the root's own")
    fd = native.open_root(str(folder))
    yield fd
    os.close(fd)


def opened(root: int, path: str, flags: int = os.O_RDONLY, *, fallback: bool) -> bytes:
    fd = native.open_in(root, path, flags, shown=path, fallback=fallback)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def refusal(root: int, path: str, flags: int = os.O_RDONLY, *, fallback: bool) -> str:
    with pytest.raises(KernelError) as caught:
        os.close(native.open_in(root, path, flags, shown=f"R/{path}", fallback=fallback))
    assert caught.value.op == "open"
    assert caught.value.path == f"R/{path}"
    return caught.value.code


@BOTH
@pytest.mark.parametrize(
    "path", ["a/b/file", "/a/b/file", "a//b/./file", "../a/b/file", "a/../../../a/b/file"]
)
def test_a_path_starts_at_the_root_and_stays_there(root: int, path: str, *, fallback: bool) -> None:
    assert opened(root, path, fallback=fallback) == b"inside"


@BOTH
@pytest.mark.parametrize("climb", ["/", "../", "../../../../../", "/../../"])
def test_a_link_cannot_lead_out(
    root: int, tmp_path: Path, outside: Path, climb: str, *, fallback: bool
) -> None:
    link = tmp_path / "root/a/link"
    link.symlink_to(f"{climb}outside/secret")
    assert opened(root, "a/link", fallback=fallback) == b"the root's own"
    link.unlink()
    link.symlink_to(outside / "secret")
    assert refusal(root, "a/link", fallback=fallback) == "ENOENT"


@BOTH
def test_loops_end(root: int, tmp_path: Path, *, fallback: bool) -> None:
    (tmp_path / "root/one").symlink_to("two")
    (tmp_path / "root/two").symlink_to("one")
    assert refusal(root, "one/file", fallback=fallback) == "ELOOP"


@BOTH
def test_the_kernels_limit_of_links_is_kept(root: int, tmp_path: Path, *, fallback: bool) -> None:
    (tmp_path / "root/l0").symlink_to("a/b/file")
    for number in range(1, 41):
        (tmp_path / f"root/l{number}").symlink_to(f"l{number - 1}")
    assert opened(root, "l39", fallback=fallback) == b"inside"
    assert refusal(root, "l40", fallback=fallback) == "ELOOP"


@BOTH
def test_a_nul_in_a_path_is_refused(root: int, *, fallback: bool) -> None:
    assert refusal(root, "a/b\0/file", fallback=fallback) == "EINVAL"


@BOTH
def test_files_can_be_made_inside_alone(root: int, tmp_path: Path, *, fallback: bool) -> None:
    (tmp_path / "root/link").symlink_to("/made")
    flags = os.O_WRONLY | os.O_CREAT
    os.close(native.open_in(root, "link", flags, shown="x", mode=0o640, fallback=fallback))
    assert (tmp_path / "root/made").stat().st_mode & 0o777 == 0o640
    assert refusal(root, "link", flags | os.O_EXCL, fallback=fallback) == "EEXIST"


def test_a_directory_that_is_moved_away_meanwhile_leads_nowhere_else(
    root: int, tmp_path: Path
) -> None:
    # The walk holds a/b; where a/b has gone meanwhile, ".." must not be asked of the kernel.
    fd = native.open_in(root, "a/b/../b/file", os.O_RDONLY, shown="x", fallback=True)
    os.close(fd)
    (tmp_path / "root/a/b").rename(tmp_path / "outside/b")
    assert refusal(root, "a/b/../secret", fallback=True) == "ENOENT"


def test_fds_are_closed_on_exec_and_none_is_left_open(root: int) -> None:
    gc.collect()  # what earlier tests have left open is closed now, and not while it is counted
    before = {fd.name for fd in Path("/proc/self/fd").iterdir()}
    for fallback, path in itertools.product((False, True), ("a/b/file", "a/b/none", "a/../a/b")):
        try:
            fd = native.open_in(root, path, os.O_RDONLY, shown=path, fallback=fallback)
        except KernelError:
            continue
        assert not os.get_inheritable(fd)
        os.close(fd)
    assert {fd.name for fd in Path("/proc/self/fd").iterdir()} == before


def test_a_root_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, code in (("none", "ENOENT"), ("file", "ENOTDIR")):
        with pytest.raises(KernelError) as caught:
            native.open_root(str(tmp_path / name))
        assert caught.value.code == code


NAMES = st.sampled_from(["a", "b", "c"])
PARTS = st.one_of(NAMES, NAMES, st.sampled_from([".", "..", ""]))
PATHS = st.builds(
    lambda start, parts, end: start + "/".join(parts) + end,
    st.sampled_from(["", "", "/"]),
    st.lists(PARTS, min_size=1, max_size=5),
    st.sampled_from(["", "", "/"]),
).filter(bool)
PLACES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
THINGS = st.one_of(st.just("dir"), st.just("file"), st.just("fifo"), PATHS)
FLAGS = st.sampled_from(
    [
        os.O_RDONLY | os.O_NONBLOCK,
        os.O_WRONLY | os.O_NONBLOCK,
        os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW,
        os.O_RDONLY | os.O_DIRECTORY,
        os.O_PATH,
        os.O_PATH | os.O_NOFOLLOW,
        os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW,
    ]
)


def outcome(root: int, path: str, flags: int, *, fallback: bool) -> tuple[int, ...]:
    try:
        fd = native.open_in(root, path, flags, shown=path, fallback=fallback)
    except KernelError as error:
        return (error.errno or 0,)
    try:
        stat = os.fstat(fd)
        return (stat.st_dev, stat.st_ino)
    finally:
        os.close(fd)


@settings(max_examples=200)
@given(things=st.dictionaries(PLACES, THINGS, max_size=8), path=PATHS, flags=FLAGS)
def test_the_walk_does_what_the_kernel_does(things: dict[str, str], path: str, flags: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder, "root").resolve()
        top.mkdir()
        for place, thing in sorted(things.items()):
            make(top, place, thing)
        root = native.open_root(str(top))
        try:
            kernel = outcome(root, path, flags, fallback=False)
            assert outcome(root, path, flags, fallback=True) == kernel
        finally:
            os.close(root)


def make(top: Path, place: str, thing: str) -> None:
    file = top
    for name in place.split("/")[:-1]:
        file /= name
        # Never through a link: it may lead out of the test's own directory.
        if file.is_symlink() or (file.exists() and not file.is_dir()):
            return
        file.mkdir(exist_ok=True)
    file = top / place
    if os.path.lexists(file):
        return
    if thing == "dir":
        file.mkdir()
    elif thing == "file":
        file.touch()
    elif thing == "fifo":
        os.mkfifo(file)
    else:
        file.symlink_to(thing)


def test_magic_links_are_not_followed() -> None:
    with tempfile.NamedTemporaryFile() as file:
        root = native.open_root("/")
        try:
            path = f"proc/self/fd/{file.fileno()}"
            with pytest.raises(KernelError) as caught:
                native.open_in(root, path, os.O_RDONLY, shown=path)
            assert caught.value.errno == errno.ELOOP
        finally:
            os.close(root)
