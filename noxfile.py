"""Every check of the project, by name: ``nox -l`` lists them, ``nox -s lint`` runs one.

CI (``.ci/run``) runs these sessions and nothing else besides the blocks of README.md.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types", "contracts", "docs", "tests"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
DEPENDENCIES = [
    *PYPROJECT["project"]["dependencies"],
    *PYPROJECT["project"]["optional-dependencies"]["test"],
]


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on an editable install; further arguments go to pytest."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the rules and the format with ruff."""
    install_group(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy."""
    session.install(*DEPENDENCIES)
    install_group(session, "types")
    session.run("mypy")


@nox.session
def contracts(session: nox.Session) -> None:
    """Check the direction of the layers, and that the pure core does no I/O."""
    install_group(session, "contracts")
    session.run("lint-imports", "--no-cache", "--no-logo")


@nox.session
def docs(session: nox.Session) -> None:
    """Make web pages of docs/ and the docstrings in build/docs; a link to nowhere is an error."""
    install_group(session, "docs")
    session.install("-e", ".")
    # The top folder is the source, since README.md and others there are pages, too.
    session.run("sphinx-build", "-EWq", "--keep-going", "-c", "docs", ".", "build/docs")


@nox.session
def sanitizers(session: nox.Session) -> None:
    """Test the C core, built with AddressSanitizer and UndefinedBehaviorSanitizer."""
    install_group(session, "build")
    session.install(*DEPENDENCIES)
    tmp = Path(session.create_tmp()).resolve()
    tree = build(session, tmp, "--sdist")
    (sdist,) = (tmp / "dist").glob("*.tar.gz")
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g"
    # Uncached: pip would keep the instrumented build for the next who asks for this version.
    session.install(
        *("--no-deps", "--no-cache-dir", "--force-reinstall", str(sdist)), env={"CFLAGS": flags}
    )
    instrumented = (
        "from vfiohost import _native; assert b'__asan' in open(_native.__file__, 'rb').read()"
    )
    environment = {
        # The interpreter itself is not instrumented, so the runtime has to be there before it ...
        "LD_PRELOAD": " ".join(compiler_library(name) for name in ("libasan.so", "libubsan.so")),
        # ... it keeps memory until it exits, which is no leak, ...
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # ... and its own allocator would hide from the runtime where a buffer ends.
        "PYTHONMALLOC": "malloc",
    }
    with session.chdir(tree):
        session.run("python", "-P", "-c", instrumented, env=environment)
        session.run(
            *("python", "-P", "-m", "pytest", "tests/native"),
            *session.posargs,
            env=environment,
        )


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz the C core (with clang) and the readers; docs/fuzzing.md names the arguments."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.fuzz", *(session.posargs or ("--seconds", "45")))


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the sdist and a wheel from it, and test that wheel on every CPython there is."""
    install_group(session, "build")
    tmp = Path(session.create_tmp()).resolve()
    environment = {"VFIOHOST_DIST": str(tmp / "dist")}
    if Path(".git").exists():
        environment["VFIOHOST_SOURCE"] = str(Path.cwd())
    tree = build(session, tmp)
    (built,) = (tmp / "dist").glob("*.whl")
    session.run("abi3audit", "--strict", "--report", str(built))
    pythons = find_pythons()
    if not pythons:
        session.error("this machine has no CPython >= 3.11 to test the wheel on")
    for name, python in pythons.items():
        session.log(f"testing {built.name} on {name}: {python}")
        session.run("virtualenv", "-q", "--clear", "-p", python, str(tmp / "venv"))
        inside = str(tmp / "venv" / "bin" / "python")
        session.run(inside, "-m", "pip", "install", "-q", f"{built}[test]", external=True)
        with session.chdir(tree):
            session.run(
                *(inside, "-P", "-m", "pytest", "-n", "auto", *session.posargs),
                env=environment,
                external=True,
            )
    session.log(f"{built.name} passed on {', '.join(pythons)}")


def build(session: nox.Session, tmp: Path, *options: str) -> Path:
    """Build into ``tmp/dist``, and unpack the sdist into ``tmp/tree`` without the package.

    Tests that run in that tree can only find the package that is installed.

    Args:
        session: with the group "build" installed.
        tmp: a folder for both.
        options: of ``python -m build``; by default it makes an sdist and a wheel from that.

    Returns:
        The tree.
    """
    dist, tree = tmp / "dist", tmp / "tree"
    for old in (dist, tree):
        shutil.rmtree(old, ignore_errors=True)
    tree.mkdir()
    session.run("python", "-m", "build", *options, "--outdir", str(dist))
    (sdist,) = dist.glob("*.tar.gz")
    session.run("tar", "-xzf", str(sdist), "-C", str(tree), "--strip-components=1", external=True)
    shutil.rmtree(tree / "vfiohost")
    return tree


def compiler_library(name: str) -> str:
    """Where the compiler keeps one of its run-time libraries."""
    command = [os.environ.get("CC", "gcc"), f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def install_group(session: nox.Session, group: str) -> None:
    """Install a dependency group of pyproject.toml."""
    session.install(*nox.project.dependency_groups(PYPROJECT, group))


def find_pythons() -> dict[str, str]:
    """Find every CPython >= 3.11 with a GIL: on PATH, and among those that pyenv installed.

    Returns:
        The executables by a name that tells them apart, such as "3.11.2 in /usr".
    """
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders += sorted(pyenv.glob("versions/*/bin"))
    found: dict[str, str] = {}
    for folder in folders:
        for python in sorted(folder.glob("python3*")):
            is_python = re.fullmatch(r"python3(\.\d+)?", python.name)
            name = describe_python(python) if is_python else None
            if name is not None:
                found.setdefault(name, str(python))
    return found


def describe_python(python: Path) -> str | None:
    """Name an interpreter that the abi3 wheel is for; ``None`` when it is none.

    A virtual environment counts as the interpreter that it was made from, and the limited API does
    not reach free-threaded builds.
    """
    question = (
        "import json, sys, sysconfig; print(json.dumps([sys.implementation.name,"
        "sys.version_info[:3], sys.base_prefix, bool(sysconfig.get_config_var('Py_GIL_DISABLED'))"
        "]))"
    )
    try:
        answer = subprocess.run(
            [python, "-c", question], capture_output=True, check=True, timeout=60
        )
        implementation, version, prefix, free_threaded = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # a broken link, or a shim of a version that is not there
    if implementation != "cpython" or version < [3, 11] or free_threaded:
        return None
    return f"{'.'.join(map(str, version))} in {prefix}"
