"""Builds vfiohost._native, the C core, from the one header that the C sources include too.

setup.py names :data:`ffibuilder`; the module is built for the limited API, once for all CPythons.
``VFIOHOST_WERROR=1`` in the environment turns compiler warnings into errors (for CI: a user's
newer compiler must not fail on a warning that we have never seen).
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = (
    "config.c",
    "folder.c",
    "helper.c",
    "iommufd.c",
    "mdev.c",
    "open.c",
    "read.c",
    "scan.c",
    "store.c",
    "vfio.c",
)
WARNINGS = ("-Wall", "-Wextra", "-Wconversion")

# The wrappers that cffi generates are not ours to fix; the sources are compiled on their own.
PREAMBLE = """
#include <stddef.h>
#include <stdint.h>
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "vfiohost.cdef.h"
"""

ffibuilder = FFI()
ffibuilder.cdef((HERE / "vfiohost.cdef.h").read_text())
ffibuilder.set_source(
    "vfiohost._native",
    PREAMBLE,
    # Relative to setup.py: setuptools accepts no absolute paths.
    sources=[f"csrc/{name}" for name in SOURCES],
    depends=["csrc/vfiohost.cdef.h", "csrc/scan.h"],
    include_dirs=["csrc"],
    extra_compile_args=[
        "-std=gnu11",
        *WARNINGS,
        *(["-Werror"] if os.environ.get("VFIOHOST_WERROR") == "1" else []),
    ],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
