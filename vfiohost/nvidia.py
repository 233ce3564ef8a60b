"""What is particular to NVIDIA: ids, classes, and the names and descriptions of vGPU types.

Pure knowledge. The class codes are those that NVIDIA's own tools select by (go-nvlib ``nvpci``);
the grammar of the type names is that of NVIDIA's vGPU device manager.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import attrs

from vfiohost.errors import ParseError
from vfiohost.model import NVSWITCH

if TYPE_CHECKING:
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

_NAME = re.compile(
    r"""(?P<gpu>[A-Z0-9]+(?:-[a-zA-Z]+)*)
        (?:-(?P<slices>[1-9]))?
        -(?P<memory>0|[1-9][0-9]{0,5})
        (?P<series>[ABCQ])
        (?P<suffix>ME|NOME|MEALL|GFX)?""",
    re.VERBOSE,
)
_DIGITS = re.compile(r"[0-9]{1,18}")
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


def _number(text: str | None, *, unit: str = "") -> int | None:
    digits = (text or "").removesuffix(unit)
    return int(digits) if _DIGITS.fullmatch(digits) else None
