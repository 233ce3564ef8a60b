"""How the kernel reads what is written to it. Pure: bytes in, values out.

``None`` means that the kernel's function gives an error; which errno becomes of it is for the
attribute to say.
"""

from __future__ import annotations

import re

PAGE_SIZE = 4096

_HEX_FIELD = re.compile(rb"\s*((?:0[xX](?=[0-9a-fA-F]))?[0-9a-fA-F]+)")
_DECIMAL = re.compile(rb"([+-]?)([0-9]+)(\n?\Z)?")
_UUID = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.DOTALL)
_UUID_LENGTH = 36
_DIGITS = {8: b"01234567", 10: b"0123456789", 16: b"0123456789abcdef"}


def one_page(data: bytes) -> bytes:
    """What arrives of a write to sysfs (``kernfs_fop_write_iter`` in ``fs/kernfs/file.c``)."""
    return data[:PAGE_SIZE]


def c_string(data: bytes) -> bytes:
    """The text up to the first NUL, as functions on strings see it."""
    return data.split(b"\0", 1)[0]


def name(data: bytes) -> str:
    """The name that ``sysfs_streq`` compares: one trailing newline does not count."""
    return c_string(data).removesuffix(b"\n").decode("utf-8", "surrogateescape")


def unsigned(data: bytes, *, bits: int) -> int | None:
    """``kstrtouN(…, 0, …)`` in ``lib/kstrtox.c``: decimal, ``0x…``, ``0…`` (octal), one newline."""
    text = c_string(data).removeprefix(b"+").removesuffix(b"\n").lower()
    base = 10
    if text.startswith(b"0x") and text[2:3] in tuple(_each(_DIGITS[16])):
        base, text = 16, text[2:]
    elif text.startswith(b"0"):
        base = 8
    if not text or text.strip(_DIGITS[base]):
        return None
    value = int(text, base)
    return value if value < 1 << bits else None


def signed_decimal(data: bytes) -> int | None:
    """``kstrtol(…, 10, …)`` in ``lib/kstrtox.c``: a number of any size, and one newline.

    Returns:
        ``None`` for EINVAL. One that does not fit a long is ERANGE, which comes before EINVAL for
        what follows it.
    """
    match = _DECIMAL.match(c_string(data))
    value = 0 if match is None else int(match[2])
    if match is None or (match[3] is None and value < 1 << 64):
        return None
    return -value if match[1] == b"-" else value


def boolean(data: bytes) -> bool | None:
    """``kstrtobool`` in ``lib/kstrtox.c``: only the first one or two characters count."""
    text = c_string(data).lower()
    if text[:1] in (b"y", b"t", b"1") or text[:2] == b"on":
        return True
    if text[:1] in (b"n", b"f", b"0") or text[:2] == b"of":
        return False
    return None


def hex_fields(data: bytes, *, most: int) -> list[int]:
    """``sscanf("%x %x …")`` in ``lib/vsprintf.c``: the fields up to the first that is no number."""
    text = c_string(data)
    fields: list[int] = []
    position = 0
    while len(fields) < most and (match := _HEX_FIELD.match(text, position)):
        fields.append(int(match[1], 16) & 0xFFFF_FFFF)
        position = match.end()
    return fields


def uuid(data: bytes) -> str | None:
    """The UUID that ``create_store`` in ``drivers/vfio/mdev/mdev_sysfs.c`` takes, in lower case.

    The kernel looks at the first 36 bytes and allows one more of any kind.
    """
    if not _UUID_LENGTH <= len(data) <= _UUID_LENGTH + 1:
        return None
    text = data[:_UUID_LENGTH]
    return text.decode("ascii").lower() if _UUID.fullmatch(text) else None


def _each(digits: bytes) -> list[bytes]:
    return [bytes([digit]) for digit in digits]
