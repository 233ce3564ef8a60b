"""``python -m vfiohost.cli`` is the same as ``vfiohost``."""

from __future__ import annotations

import sys

from vfiohost.cli import main

sys.exit(main())
