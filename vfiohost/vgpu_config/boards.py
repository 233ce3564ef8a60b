"""The boards that make vGPUs, and the configurations that follow from them. Pure knowledge.

For each type of vGPU there is a configuration of that name with as many as one GPU holds, and
``default``, where each vGPU gets half of a GPU's memory. The content is that of the file that
NVIDIA's vGPU device manager takes:

- ``assets/state-vgpu-device-manager/0500_configmap.yaml`` of NVIDIA's gpu-operator (commit
  028a5ff29ef3, before vGPU 20), which has all boards but the two that follow;
- ``default`` of the same file for vGPU 20 (NVIDIA/gpu-operator pull request 2625), which names the
  B300 and the RTX PRO 4500 Blackwell Server Edition;
- "Blackwell Architecture vGPU Types" of NVIDIA AI Enterprise 8 for the C types of the latter.

Two device ids stand for two boards each; these are told apart by their subsystem (``pci.ids``), so
that no GPU has two entries. The other way round ``DC`` names two boards: where these hold different
numbers of a type, its configuration has an entry for each, while NVIDIA's has one number for both.

Still missing of the 711 configurations for vGPU 20: those of the MIG-backed types of the B300, of
the Q types of the RTX PRO 4500 but for that of ``default``, and of the MIG-backed types of ``DC``
and ``6000D`` as they are spelled with ``GFX``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from vfiohost.nvidia import VENDOR_ID
from vfiohost.vgpu_config.types import ALL, Config, DeviceFilter, Entry

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_VGPUS = 32
"""No GPU of these takes more time-sliced vGPUs of one type."""

_FIRST_COMPUTE_GB = 4
"""C types begin here, but on Blackwell; the smaller sizes are for graphics."""


@attrs.frozen
class Board:
    """A kind of board.

    Attributes:
        name: in the names of its types (``A10``).
        device_ids: of its GPUs; with ``:``, and the subsystem's device id, where several boards
            share one.
        memory_gb: what its vGPUs share.
        sizes: memory of its time-sliced types in GB.
        default_gb: the memory of each vGPU of ``default``.
        series: letters of its time-sliced types; that of ``default`` comes first.
        more: its types that do not follow from the sizes, the MIG-backed ones above all: what comes
            after the board in their names, and how many a GPU holds.
        most: how many a GPU holds where that is not what its memory does, by what comes after the
            board in the type's name.
        first_compute_gb: memory of the smallest C type.
    """

    name: str
    device_ids: tuple[str, ...]
    memory_gb: int
    sizes: tuple[int, ...]
    default_gb: int
    series: str = "C"
    more: tuple[tuple[str, int], ...] = ()
    most: tuple[tuple[str, int], ...] = ()
    first_compute_gb: int = _FIRST_COMPUTE_GB

    @property
    def filters(self) -> tuple[DeviceFilter, ...]:
        """The filters that its GPUs fit."""
        return tuple(DeviceFilter(_filter(text)) for text in self.device_ids)

    @property
    def default(self) -> tuple[str, int]:
        """The type of ``default``, and how many."""
        count = self.memory_gb // self.default_gb
        return f"{self.name}-{self.default_gb}{self.series[0]}", count

    def types(self) -> Iterator[tuple[str, int]]:
        """Its types, and how many of each one GPU holds."""
        most = dict(self.most)
        for series in sorted(self.series):
            for size in self.sizes:
                if series == "C" and size < self.first_compute_gb:
                    continue
                part = f"{size}{series}"
                count = most.get(part, min(_MOST_VGPUS, self.memory_gb // size))
                yield f"{self.name}-{part}", count
        for part, count in self.more:
            yield f"{self.name}-{part}", count


def _filter(text: str) -> str:
    ids = (f"0x{part}{VENDOR_ID:04X}" for part in text.split(":"))
    return ":".join(ids)


def _seven(one: int, two: int, half: int, whole: int) -> tuple[tuple[str, int], ...]:
    """The MIG-backed types of a GPU of seven slices, with the memory of each in GB."""
    return (
        (f"1-{one}C", 7),
        (f"1-{one}CME", 1),
        (f"1-{two}C", 4),
        (f"2-{two}C", 3),
        (f"3-{half}C", 2),
        (f"4-{half}C", 1),
        (f"7-{whole}C", 1),
    )


def _graphics(
    name: str, ids: str, sizes: tuple[int, ...], most: tuple[tuple[str, int], ...] = ()
) -> Board:
    whole = sizes[-1]
    return Board(name, tuple(ids.split()), whole, sizes, whole // 2, "QC", most=most)


def _compute(
    name: str,
    ids: str,
    sizes: tuple[int, ...],
    slices: tuple[tuple[str, int], ...],
    most: tuple[tuple[str, int], ...] = (),
) -> Board:
    whole = sizes[-1]
    return Board(name, tuple(ids.split()), whole, sizes, whole // 2, "C", slices, most)


def _undivided(
    name: str, device_id: str, size: int, slices: tuple[tuple[str, int], ...] = ()
) -> Board:
    """A board with a single time-sliced type, which has all of its memory."""
    return Board(name, (device_id,), size, (size,), size, "C", slices)


_16 = (1, 2, 4, 8, 16)
_24 = (1, 2, 3, 4, 6, 8, 12, 24)
_32 = (1, 2, 4, 8, 16, 32)
_48 = (1, 2, 3, 4, 6, 8, 12, 16, 24, 48)
_C24 = (4, 6, 8, 12, 24)
_C40 = (4, 5, 8, 10, 20, 40)
_C80 = (4, 8, 10, 16, 20, 40, 80)
_H80 = (4, 5, 8, 10, 16, 20, 40, 80)
_H94 = (4, 6, 11, 15, 23, 47, 94)
_MIG24 = (("1-6C", 4), ("1-6CME", 1), ("2-12C", 2), ("2-12CME", 1), ("4-24C", 1))
_MIG40 = _seven(5, 10, 20, 40)
_MIG80 = _seven(10, 20, 40, 80)
_MIG94 = _seven(12, 24, 47, 94)
_MIG96 = _seven(12, 24, 48, 96)
_H141 = (4, 7, 8, 14, 17, 28, 35, 70, 141)
_MIG141 = _seven(18, 35, 71, 141)
_MOST141 = (("8C", 16),)
_DC96 = (3, 4, 6, 8, 12, 16, 24, 32, 48, 96)
_MIG_DC96 = (
    *((f"1-{size}Q", 96 // size) for size in (2, 3, 4, 6, 8, 12, 24)),
    *((f"1-{size}C", 96 // size) for size in (8, 12, 24)),
    *((f"2-{size}{series}", 96 // size) for size in (12, 16, 24, 48) for series in "CQ"),
    *((f"4-{size}{series}", 96 // size) for size in (24, 32, 48, 96) for series in "CQ"),
)
_C_DC32 = (
    ("8C", 4),
    ("16C", 2),
    ("32C", 1),
    ("1-8C", 2),
    ("1-16C", 1),
    ("2-8C", 4),
    ("2-16C", 2),
    ("2-32C", 1),
)
_MIG_6000D = (("1-42C", 2), ("1-42Q", 2), ("2-84C", 1), ("2-84Q", 1))

BOARDS = (
    _graphics("V100X", "1DB1", _16),
    _graphics("V100L", "1DB3", _16),
    _graphics("V100", "1DB4", _16),
    _graphics("V100DX", "1DB5", _32),
    _graphics("V100D", "1DB6", _32),
    _graphics("V100S", "1DF6", _32),
    _graphics("RTX8000P", "1E78:13D8", _48, (("4C", 8),)),
    _graphics("RTX6000P", "1E78:13D9", _24),
    _graphics("T4", "1EB8", _16),
    _compute("A100X", "20B0", _C40, _MIG40),
    _compute("A100DX", "20B2", _C80, _MIG80),
    _compute("A100D", "20B5 20B8", _C80, _MIG80),
    _compute("A30", "20B7 20B9", _C24, _MIG24),
    _compute("A100", "20F1", _C40, _MIG40),
    _compute("A800DX", "20F3", _C80, _MIG80),
    _compute("A800D", "20F5 20FD", _C80, _MIG80),
    _compute("A800", "20F6", _C40, _MIG40),
    _graphics("RTXA6000", "2230", _48),
    _graphics("RTXA5000", "2231", _24),
    _graphics("RTXA5500", "2233", _24),
    _graphics("A40", "2235", _48),
    _graphics("A10", "2236", _24),
    _compute("H100L", "2321", _H94, _MIG94),
    _compute("H800", "2322", _H80, _MIG80),
    _compute("H800XM", "2324", _H80, _MIG80),
    _compute("H20", "2329", (4, 6, 8, 12, 16, 24, 32, 48, 96), _MIG96),
    _compute("H20X", "232C", _H141, _MIG141, _MOST141),
    _compute("H100XM", "2330 2336", _H80, _MIG80),
    _compute("H100", "2331", _H80, _MIG80),
    _compute("H200X", "2335", _H141, _MIG141, _MOST141),
    _compute("H100XS", "2337", (4, 8, 16, 32, 64), _seven(8, 16, 32, 64)),
    _compute("H100XL", "2339", _H94, _MIG94),
    _compute("H800L", "233A", _H94, _MIG94),
    _compute("H200", "233B", _H141, _MIG141, _MOST141),
    _undivided("GH200", "2342", 96, _MIG96),
    _undivided("GH200L", "2348", 144, _seven(18, 36, 72, 144)),
    _graphics("A16", "25B6:14A9", _16),
    _graphics("A2", "25B6:157E", _16),
    _graphics("RTX6000-Ada", "26B1", _48),
    _graphics("RTX5000-Ada", "26B2", _32),
    _graphics("RTX5880-Ada", "26B3", _48),
    _graphics("L40", "26B5", _48),
    _graphics("L40S", "26B9", _48),
    _graphics("L20", "26BA", _48),
    _graphics("L2", "27B6", _24),
    _graphics("L4", "27B8", _24),
    _undivided("B200X", "2901", 180, _seven(23, 45, 90, 180)),
    _undivided("GB200", "2941", 189, _seven(24, 47, 95, 189)),
    Board("DC", ("2BB5",), 96, _DC96, 48, "QC", _MIG_DC96, first_compute_gb=8),
    Board("6000D", ("2BB9",), 84, (84,), 84, "QC", _MIG_6000D),
    Board("DC", ("2C3A",), 32, (16,), 16, "Q", _C_DC32),
    _undivided("B300X", "3182", 269),
)
"""The boards, in order of their device ids."""


def default_config() -> Config:
    """The configurations that follow from :data:`BOARDS`: ``default``, and one for each type."""
    default = [Entry(ALL, dict([board.default]), board.filters) for board in BOARDS]
    configs = {"default": tuple(default)}
    holding: dict[str, list[tuple[Board, int]]] = {}
    for board in BOARDS:
        for name, count in board.types():
            holding.setdefault(name, []).append((board, count))
    for name, boards in holding.items():
        # Without a filter for all GPUs, as in NVIDIA's file, unless the boards of a name differ.
        is_one = len({count for _, count in boards}) == 1
        configs[name] = tuple(
            Entry(ALL, {name: count}, () if is_one else board.filters)
            for board, count in (boards[:1] if is_one else boards)
        )
    return Config(configs)
