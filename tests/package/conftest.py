"""Which of these tests can be run."""

from __future__ import annotations

import os

# They look at an sdist and a wheel, which `nox -s wheel` builds. Left out, and not skipped: in a
# source tree nothing is missing.
collect_ignore = [] if "VFIOHOST_DIST" in os.environ else ["test_dist.py"]
