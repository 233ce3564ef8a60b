"""What the kernel would let this process do: its capabilities, where they count."""

from __future__ import annotations

from pathlib import Path

CAP_IPC_LOCK = 14
"""``include/uapi/linux/capability.h``"""
CAP_SYS_MODULE = 16

_PROC = Path("/proc/self")
_EVERYBODY = [b"0", b"0", b"4294967295"]  # the uid_map of the initial user namespace


def has_capability(number: int) -> bool:
    """Whether this process has a capability over the host, and not over a namespace of its own.

    Args:
        number: of the capability.

    Files: ``/proc/self/status`` and ``/proc/self/uid_map``, which are never below another root.
    """
    status = (_PROC / "status").read_bytes().splitlines()
    effective = next(line.split()[1] for line in status if line.startswith(b"CapEff:"))
    return _is_in_initial_namespace() and bool(int(effective, 16) >> number & 1)


def _is_in_initial_namespace() -> bool:
    """In a user namespace of its own a process has capabilities over nothing that matters here."""
    try:
        return (_PROC / "uid_map").read_bytes().split() == _EVERYBODY
    except FileNotFoundError:
        return True  # a kernel without CONFIG_USER_NS
