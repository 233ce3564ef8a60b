"""How planners put lists and numbers into sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_LISTED = 8


def listed(things: Sequence[object]) -> str:
    """``a, b and c``; of a long list the first ones, and how many more there are."""
    texts = [str(thing) for thing in things]
    if len(texts) > _LISTED:
        texts[_LISTED - 1 :] = [f"{len(texts) - _LISTED + 1} more"]
    if len(texts) < 2:  # noqa: PLR2004
        return "".join(texts)
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 instance``, ``3 instances``; ``many`` where an ``s`` does not make the plural."""
    return f"{number} {one if number == 1 else many or one + 's'}"
