"""Whose a VFIO node shall be: from ``qemu:kvm`` and ``0660`` to numbers."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

import attrs

from vfiohost.errors import NotFoundError, ParseError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST = 2**32 - 2  # -1 means "leave it" to chown(2)
_NAME = re.compile(r"[^:\s]+")
_MODE = re.compile(r"0?[0-7]{3}")
_FIELDS = 3  # name, password and number; what follows is not needed


@attrs.frozen
class Ownership:
    """What the nodes of a device shall have; ``None``: as it is.

    Attributes:
        uid, gid: numbers of user and group.
        mode: permission bits.
    """

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None


def parse_ownership(owner: str | None, mode: str | None, passwd: str, group: str) -> Ownership:
    """Understand ``USER``, ``USER:GROUP`` or ``:GROUP``, by name or number, and a mode.

    Args:
        owner: user and group.
        mode: three octal digits, with or without a leading 0.
        passwd: the host's ``etc/passwd``.
        group: the host's ``etc/group``.

    ``root`` is known without the files, as user and as group.

    Raises:
        ParseError: one of them cannot be what it should be.
        NotFoundError: there is no such user or group.
    """
    user, colon, team = (owner or "").partition(":")
    if owner is not None and (not (user or team) or (colon and not team) or ":" in team):
        raise ParseError(owner, "USER, USER:GROUP or :GROUP, by name or number", where="--owner")
    if mode is not None and not _MODE.fullmatch(mode):
        raise ParseError(mode, "three octal digits, such as 0660", where="--mode")
    return Ownership(
        _number(user, "user", _numbers(passwd)) if user else None,
        _number(team, "group", _numbers(group)) if team else None,
        None if mode is None else int(mode, 8),
    )


def _numbers(text: str) -> dict[str, int]:
    """Names and numbers of a passwd or group file; a line that makes no sense is passed over."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > _FIELDS and fields[2].isdecimal() and fields[2].isascii():
            found.setdefault(fields[0], int(fields[2]))
    return found


def _number(text: str, kind: str, known: Mapping[str, int]) -> int:
    if text in known:
        return known[text]
    if text == "root":
        return 0  # on every Linux, whatever files a recording or a container has
    if text.isascii() and text.isdecimal():
        if int(text) > _MOST:
            raise ParseError(text, f"the number of a {kind}, at most {_MOST}", where="--owner")
        return int(text)
    if not _NAME.fullmatch(text):
        raise ParseError(text, f"the name of a {kind}", where="--owner")
    raise NotFoundError(kind, text, near=get_close_matches(text, known, n=3))
