"""What is particular to NVIDIA: ids, classes, and the names and descriptions of vGPU types.

Pure knowledge. The class codes are those that NVIDIA's own tools select by (go-nvlib ``nvpci``);
the grammar of the type names is that of NVIDIA's vGPU device manager.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost.errors import ParseError
from vfiohost.model import NVSWITCH, CardTypes, CardVgpuType

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from vfiohost.model import MdevType, PciDevice

VENDOR_ID = 0x10DE
CLASS_VGA_CONTROLLER = 0x030000
CLASS_3D_CONTROLLER = 0x030200

DRIVER = "nvidia"
"""The name of NVIDIA's own driver, on a vGPU host too."""

UNBIND_LOCK = "proc/driver/nvidia/gpus/{address}/unbindLock"
"""A GPU's lock, relative to the root: while it reads 1, no process can begin to use the GPU. The
driver takes a 1 only when nobody uses it, and says so by what is read back (``nv-procfs.c`` of
NVIDIA's open kernel modules)."""

VGPU_PARAMS = "nvidia/vgpu_params"
"""The attribute of a mediated device that takes vGPU plugin parameters (``enable_uvm=1``)."""

VGPU_TYPE = "nvidia/current_vgpu_type"
"""The attribute of a virtual function that takes a vGPU type without mediated devices; 0 is none.
So it is from vGPU 17 on, with Linux 6.8 or later, on Ada cards and newer ones."""

VGPU_TYPES = "nvidia/creatable_vgpu_types"
"""The attribute beside it that lists what the card has room for: less and less as it fills."""

VGPU_CONFIG = "usr/share/nvidia/vgpu/vgpuConfig.xml"
"""The file of the vGPU host driver that has the types of every card, relative to the root."""

SUFFIXES = ("MEALL", "NOME", "ME", "GFX")
"""The suffixes of MIG-backed types, in the order in which the vGPU device manager tries them."""

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 48)
_L40S = ("1B", "2B", *(f"{gb}Q" for gb in _SIZES), *(f"{gb}A" for gb in _SIZES))
KNOWN_VGPU_TYPES: Mapping[int, Mapping[int, str]] = {
    0x26B9: {number: f"NVIDIA L40S-{name}" for number, name in enumerate(_L40S, 1145)},
}
"""Names of types by their number, by device id of the card: what has been seen in public of cards
that are full, and so do not tell it themselves."""

_NAME = re.compile(
    r"""(?P<gpu>[A-Z0-9]+(?:-[a-zA-Z]+)*)
        (?:-(?P<slices>[1-9]))?
        -(?P<memory>0|[1-9][0-9]{0,5})
        (?P<series>[ABCQ])
        (?P<suffix>ME|NOME|MEALL|GFX)?""",
    re.VERBOSE,
)
_DIGITS = re.compile(r"[0-9]{1,18}")
_CREATABLE = re.compile(r"([0-9]{1,10})\s*:\s*(\S.*)")
_CONFIG_TYPE = re.compile(r'\s+id="([0-9]{1,10})"\s+name="([^"<>&]{1,80})"')
_CONFIG_SIZE = re.compile(
    r"<(profileSize|framebuffer|fbReservation)>\s*0x([0-9a-f]{1,12})\s*</",
    re.IGNORECASE,
)
_CONFIG_DEVICE = re.compile(
    r'<devId\s+vendorId="0x10de"\s+deviceId="0x([0-9a-f]{1,4})"\s+'
    r'subsystemVendorId="0x[0-9a-f]{1,4}"\s+subsystemId="0x([0-9a-f]{1,4})"',
    re.IGNORECASE,
)
_CONFIG_SUPPORTED = re.compile(
    r'<supportedVgpu\s+vgpuId="([0-9]{1,10})">\s*<maxVgpus>\s*([0-9]{1,4})\s*</maxVgpus>'
)
_BRAND = re.compile(r"(?:NVIDIA|GRID)\s+", re.IGNORECASE)
_SPACE = re.compile(r"[\s_]+")


def is_gpu(device: PciDevice) -> bool:
    """Say whether a function is an NVIDIA GPU: VGA or 3D controller, no virtual function."""
    return (
        device.vendor_id == VENDOR_ID
        and device.class_code in (CLASS_VGA_CONTROLLER, CLASS_3D_CONTROLLER)
        and not device.is_vf
    )


def is_nvswitch(device: PciDevice) -> bool:
    """Say whether a function is an NVSwitch: an endpoint, although its base class says bridge."""
    return (device.vendor_id, device.class_code) == NVSWITCH


@attrs.frozen
class VgpuTypeName:
    """The name of a vGPU type, taken apart: ``A10-8Q``, ``A100-1-5C``, ``H100XM-1-10CME``.

    Attributes:
        gpu: the board (``A10``, ``RTX6000-Ada``).
        slices: compute slices of a MIG-backed type, or ``None`` for a time-sliced one.
        memory_gb: the framebuffer in GB as the name has it; 0 for half a GB (``M60-0Q``).
        series: ``A`` applications, ``B`` desktops, ``C`` compute, ``Q`` workstations.
        suffix: ``ME``, ``NOME``, ``MEALL`` or ``GFX`` of a MIG-backed type, or ``None``.
    """

    gpu: str
    slices: int | None
    memory_gb: int
    series: Literal["A", "B", "C", "Q"]
    suffix: str | None

    @classmethod
    def parse(cls, text: str) -> VgpuTypeName:
        """Read a type's name, with or without ``NVIDIA`` or ``GRID`` in front.

        Raises:
            ParseError: the text is no name of a vGPU type.
        """
        match = _NAME.fullmatch(short_name(text))
        # A suffix belongs to the MIG-backed types only.
        if match is None or (match["suffix"] and not match["slices"]):
            raise ParseError(text, "the name of a vGPU type, such as A10-8Q or A100-1-5C")
        series = match["series"]
        return cls(
            gpu=match["gpu"],
            slices=int(match["slices"]) if match["slices"] else None,
            memory_gb=int(match["memory"]),
            series=series,  # type: ignore[arg-type]  # the pattern admits nothing else
            suffix=match["suffix"],
        )

    @property
    def is_mig(self) -> bool:
        """The type is backed by a MIG slice and not by time slices of the whole GPU."""
        return self.slices is not None

    def __str__(self) -> str:
        slices = f"-{self.slices}" if self.slices else ""
        return f"{self.gpu}{slices}-{self.memory_gb}{self.series}{self.suffix or ''}"


@attrs.frozen
class VgpuDescription:
    """A vGPU type's ``description``, taken apart. ``None`` where the text does not say.

    Attributes:
        num_heads: displays.
        frl_config: the frame rate limit in frames per second.
        framebuffer_mib: memory of one vGPU in MiB.
        max_resolution: ``7680x4320``.
        max_instance: how many of the type fit on one GPU.
    """

    num_heads: int | None
    frl_config: int | None
    framebuffer_mib: int | None
    max_resolution: str | None
    max_instance: int | None

    @classmethod
    def parse(cls, text: str) -> VgpuDescription:
        """Read ``num_heads=4, frl_config=60, framebuffer=24576M, max_resolution=…``.

        Never raises: what is missing, or is not a number where one belongs, is ``None``.
        """
        fields = {
            key.strip(): value.strip()
            for key, _, value in (part.partition("=") for part in text.split(","))
        }
        return cls(
            num_heads=_number(fields.get("num_heads")),
            frl_config=_number(fields.get("frl_config")),
            framebuffer_mib=_number(fields.get("framebuffer"), unit="M"),
            max_resolution=fields.get("max_resolution") or None,
            max_instance=_number(fields.get("max_instance")),
        )


def describe(mdev_type: MdevType) -> VgpuDescription:
    """A type's description, taken apart; all ``None`` where it has none."""
    text = mdev_type.description
    return VgpuDescription.parse(text if isinstance(text, str) else "")


def framebuffer_mib(mdev_type: MdevType) -> int | None:
    """The memory in MiB of one vGPU of a type, or ``None`` where its description does not say."""
    return describe(mdev_type).framebuffer_mib


def short_name(name: str) -> str:
    """A type's name as people write it: ``NVIDIA_A10-8Q`` and ``GRID A10-8Q`` are ``A10-8Q``."""
    return _BRAND.sub("", _SPACE.sub(" ", name.strip()), count=1) if name else name


def without_suffix(name: str) -> str:
    """A type's name without the suffix of a MIG-backed type, if it has one."""
    suffix = next((s for s in SUFFIXES if name.endswith(s)), "")
    return name.removesuffix(suffix)


def parse_creatable(text: str) -> tuple[tuple[int, str], ...]:
    """Read ``creatable_vgpu_types``: a header, and ``1148  : NVIDIA L40S-2Q`` for each type.

    Lines of another form are left out, the header with them: the driver proposed for mainline has
    none.
    """
    matches = (_CREATABLE.fullmatch(line.strip()) for line in text.splitlines())
    return tuple((int(match[1]), match[2]) for match in matches if match)


def parse_vgpu_config(text: str, device_ids: Collection[int]) -> tuple[CardTypes, ...]:
    """Read what :data:`VGPU_CONFIG` says of some cards.

    Of the XML file only the few elements that matter are looked for (``vgpuType``, ``pgpu``,
    ``supportedVgpu``), in time that grows with its length alone; no entity is expanded, and what
    has another form is left out.

    Args:
        text: the file.
        device_ids: of the cards.
    """
    types: dict[int, tuple[str, int | None]] = {}
    for block in _elements(text, "vgpuType"):
        head = _CONFIG_TYPE.match(block)
        if head:
            types[int(head[1])] = (head[2], _profile_mib(block))
    found = []
    for block in _elements(text, "pgpu"):
        card = _CONFIG_DEVICE.search(block)
        if card is None or int(card[1], 16) not in device_ids:
            continue
        supported = [(int(m[1]), int(m[2])) for m in _CONFIG_SUPPORTED.finditer(block)]
        made = [
            CardVgpuType(number, types[number][0], most, types[number][1])
            for number, most in supported
            if number in types
        ]
        found.append(CardTypes(int(card[1], 16), int(card[2], 16) or None, tuple(made)))
    return tuple(found)


def _elements(text: str, tag: str) -> Iterator[str]:
    """What stands between each closing tag and the last opening one before it."""
    for part in text.split(f"</{tag}>")[:-1]:
        _, opened, inside = part.rpartition(f"<{tag}")
        if opened:
            yield inside


def _profile_mib(block: str) -> int | None:
    """The memory of a type in MiB, what is reserved of it for the host included."""
    sizes = {m[1].lower(): int(m[2], 16) for m in _CONFIG_SIZE.finditer(block)}
    whole = sizes.pop("profilesize", None)
    # The reservation is a part of what the type takes of the card, and none of what a guest sees.
    whole = sum(sizes.values()) if whole is None and len(sizes) > 1 else whole
    return whole >> 20 if whole else None


def _number(text: str | None, *, unit: str = "") -> int | None:
    digits = (text or "").removesuffix(unit)
    return int(digits) if _DIGITS.fullmatch(digits) else None
