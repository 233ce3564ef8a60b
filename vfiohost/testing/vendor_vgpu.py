"""vGPUs without mediated devices: a virtual function of NVIDIA's that takes a type.

From vGPU 17 on and with Linux 6.8 or later NVIDIA's vGPU host driver makes the virtual functions
of newer cards VFIO devices of its own (``vfio_pci_core``), with a folder ``nvidia`` each. What
stores there answer follows ``current_vgpu_type_store`` in the kernel interface of that driver,
which NVIDIA publishes. What its firmware decides is a model here:

- A type takes as much of the card's framebuffer as its name says (``L40S-12Q``: 12 GB); the card
  has as much as its largest type. How many fit follows from that.
- All vGPUs of a card are of one type, unless the card is in heterogeneous mode.
- ENODEV for opening a device without a type and EPERM are NVIDIA's; EINVAL for a type that cannot
  be made and EBUSY for taking one away that is open are assumed.
"""

from __future__ import annotations

import errno
import posixpath
import re
from typing import TYPE_CHECKING

import attrs

from vfiohost.testing import kernel_text
from vfiohost.testing.machine import PCI_DEVICES, AnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vfiohost.recording import Function, Recording
    from vfiohost.testing.machine import Machine

DRIVER = "nvidia"
FOLDER = "nvidia"
CURRENT = f"{FOLDER}/current_vgpu_type"
CREATABLE = f"{FOLDER}/creatable_vgpu_types"
PARAMS = f"{FOLDER}/vgpu_params"
"""Can only be read while there is a type: here the file comes and goes."""

_FUNCTION = r"(sys/devices/.+/[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])"
STORE_CURRENT = re.compile(f"{_FUNCTION}/{CURRENT}")
STORE_PARAMS = re.compile(f"{_FUNCTION}/{PARAMS}")

_HEADER = "ID    : vGPU Name"
_LINE = re.compile(r"([0-9]{1,10}) *: (.+)")
_NUMBER = re.compile(r"[0-9]{1,10}")
_SIZE = re.compile(r".*-([0-9]{1,6})[ABCQ](?:ME|NOME|MEALL|GFX)?")
_HALF_A_GB = 512  # M60-0Q


@attrs.frozen
class Model:
    """What all cards of one kind can carry.

    Attributes:
        types: names by id, as the driver lists them.
        capacity_mib: the framebuffer of a card, in MiB.
    """

    types: Mapping[int, str]
    capacity_mib: int

    def size_mib(self, type_id: int) -> int:
        """How much of a card one vGPU takes; a type whose name does not say takes all of it."""
        return _size_mib(self.types.get(type_id, "")) or self.capacity_mib

    def creatable(self, used: Sequence[int], *, heterogeneous: bool) -> list[int]:
        """The types of which a card has room for one more.

        Args:
            used: the types of the vGPUs that it carries.
            heterogeneous: whether they may differ.
        """
        left = self.capacity_mib - sum(map(self.size_mib, used))
        return [
            type_id
            for type_id in self.types
            if self.size_mib(type_id) <= left and (heterogeneous or set(used) <= {type_id})
        ]


# ---- what a recording says --------------------------------------------------------------------


def model_of(recording: Recording, physfn: str) -> Model | None:
    """What a card can carry: all that its virtual functions, and those of its like, list.

    A driver that has no room for a type does not list it, so what nobody lists is not known.

    Args:
        recording: the host.
        physfn: address of the card.

    Returns:
        ``None`` when its virtual functions take no type.
    """
    cards = _cards(recording)
    kind = _kind(cards.get(physfn, ()))
    alike = [functions for functions in cards.values() if kind and _kind(functions) == kind]
    texts = [_text(each, CREATABLE) for functions in alike for each in functions]
    types = dict(sorted({known for text in texts for known in parse_types(text).items()}))
    if not texts:
        return None
    return Model(types, max(_capacity_mib(functions, types) for functions in alike))


def heterogeneous_cards(recording: Recording) -> list[str]:
    """The cards whose vGPUs, or what can be made beside them, are of several types.

    Without a vGPU nothing tells: such a card is taken for a homogeneous one.
    """
    found = []
    for physfn, functions in _cards(recording).items():
        used = set(_used(functions))
        listed = {key for each in functions for key in parse_types(_text(each, CREATABLE))}
        if used and len(used | listed) > 1:
            found.append(physfn)
    return found


def parse_types(text: str) -> dict[int, str]:
    """Read ``creatable_vgpu_types``: names by id. Lines that are something else are left out."""
    matches = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return {int(match[1]): match[2] for match in matches if match}


def format_types(types: Mapping[int, str]) -> str:
    """Write ``creatable_vgpu_types`` as the driver does: the header alone when nothing fits."""
    lines = [_HEADER, *(f"{number:<5} : {name}" for number, name in types.items())]
    return "".join(f"{line}\n" for line in lines)


def _cards(recording: Recording) -> dict[str, list[Function]]:
    """The virtual functions that take a type, by the address of their card."""
    found: dict[str, list[Function]] = {}
    for function in recording.functions:
        if function.physfn is not None and CURRENT in function.attributes:
            found.setdefault(str(function.physfn), []).append(function)
    return found


def _kind(functions: Sequence[Function]) -> tuple[str, ...]:
    """What cards of one kind have in common."""
    names = ("vendor", "device", "subsystem_vendor", "subsystem_device")
    return tuple(_text(functions[0], name) for name in names) if functions else ()


def _text(function: Function, name: str) -> str:
    attribute = function.attributes.get(name)
    content = b"" if attribute is None else attribute.content
    return content.decode("utf-8", "replace") if isinstance(content, bytes) else ""


def _used(functions: Sequence[Function]) -> list[int]:
    texts = [_text(each, CURRENT).strip() for each in functions]
    return [int(text) for text in texts if _NUMBER.fullmatch(text) and int(text)]


def _capacity_mib(functions: Sequence[Function], types: Mapping[int, str]) -> int:
    """At least what is used and the largest type that fits beside it."""
    used = sum(_size_mib(types.get(each, "")) for each in _used(functions))
    listed = [
        _size_mib(name)
        for each in functions
        for name in parse_types(_text(each, CREATABLE)).values()
    ]
    return used + max(listed, default=0)


def _size_mib(name: str) -> int:
    match = _SIZE.fullmatch(name)
    return 0 if match is None else int(match[1]) * 1024 or _HALF_A_GB


# ---- stores -----------------------------------------------------------------------------------


def store_current(machine: Machine, path: str, data: bytes) -> None:
    """``current_vgpu_type_store``: a vGPU is made of a function that is none, or the other way."""
    function = path.removesuffix(f"/{CURRENT}")
    wanted, now = kernel_text.signed_decimal(data), _current(machine, function)
    if wanted is None:
        raise AnswerError(errno.EINVAL)
    if not -(1 << 63) <= wanted < 1 << 63:
        raise AnswerError(errno.ERANGE)
    if bool(wanted) == bool(now):
        raise AnswerError(errno.EPERM)
    type_id = wanted & 0xFFFF_FFFF  # nv_vfio_pci_create takes an NvU32
    if not wanted:
        _check_closed(machine, function)
    elif type_id not in _creatable(machine, _card_of(machine, function)):
        raise AnswerError(errno.EINVAL)
    _set(machine, function, type_id)
    _update(machine, _card_of(machine, function))


def store_params(machine: Machine, path: str, data: bytes) -> None:
    """Plugin parameters of a vGPU, which take any text as those of mediated devices do."""
    text = kernel_text.c_string(data).decode("utf-8", "surrogateescape").removesuffix("\n")
    machine.tree.write(path, f"{text}\n")


def set_heterogeneous(machine: Machine, card: str, *, enabled: bool) -> int:
    """What ``nvidia-smi vgpu -shm`` does; an errno, 0 for success."""
    if machine.driver_of(card) != DRIVER:
        return errno.ENODEV
    if _used_on(machine, card):
        return errno.EBUSY
    _forget_mode(machine, card)
    if enabled:
        machine.state.heterogeneous.append(card)
    return 0


# ---- functions --------------------------------------------------------------------------------


def takes_types(machine: Machine, path: str) -> bool:
    """Whether a function is a virtual one that NVIDIA's driver has made a VFIO device."""
    is_driven = machine.driver_of(posixpath.basename(path)) == DRIVER
    return is_driven and machine.tree.exists(f"{path}/{CURRENT}")


def open_errno(machine: Machine, path: str) -> int:
    """``nv_vfio_pci_open_device``; 0 when it can be opened, as any other device can."""
    is_empty = takes_types(machine, path) and not _current(machine, path)
    return errno.ENODEV if is_empty else 0


def appear(machine: Machine, path: str, driver: str) -> bool:
    """The driver has taken a function: show the folder; whether it is a VFIO device now."""
    card = machine.physfn_of(path)
    if driver != DRIVER or card is None or machine.blueprint.vgpu_model(card) is None:
        return False
    recorded = machine.blueprint.functions.get(posixpath.basename(path))
    template = recorded or machine.blueprint.vf_template(card, 0)
    for name, attribute in {} if template is None else template.attributes.items():
        if posixpath.dirname(name) == FOLDER and isinstance(attribute.content, bytes):
            text = attribute.content.decode("utf-8", "surrogateescape")
            machine.tree.write(f"{path}/{name}", text, attribute.mode or 0o444)
    machine.tree.write(f"{path}/{CREATABLE}", "", 0o444)
    _set(machine, path, 0)
    _update(machine, card)
    return True


def vanish(machine: Machine, path: str) -> None:
    """The driver has let go of a function: a vGPU that it was is no more.

    When it lets go of a card, that forgets its mode.
    """
    _forget_mode(machine, posixpath.basename(path))
    if not takes_types(machine, path):
        return
    machine.tree.remove(f"{path}/{FOLDER}")
    card = machine.physfn_of(path)
    if card is not None:
        _update(machine, card)


def boot(machine: Machine) -> None:
    """Complete what was recorded, and remember what only vGPUs tell."""
    machine.state.heterogeneous = heterogeneous_cards(machine.blueprint.recording)
    for path in _functions(machine):
        _show_params(machine, path)


def _functions(machine: Machine, card: str | None = None) -> Iterator[str]:
    """The functions that take types, of one card or of all."""
    for name in machine.tree.listing(PCI_DEVICES):
        path = machine.pci_path(name)
        if path is None or card not in (None, machine.physfn_of(path)):
            continue
        if takes_types(machine, path):
            yield path


def _card_of(machine: Machine, path: str) -> str:
    return machine.physfn_of(path) or posixpath.basename(path)


def _current(machine: Machine, path: str) -> int:
    text = machine.tree.text(f"{path}/{CURRENT}") or ""
    return int(text) if _NUMBER.fullmatch(text) else 0


def _used_on(machine: Machine, card: str) -> list[int]:
    types = (_current(machine, path) for path in _functions(machine, card))
    return [type_id for type_id in types if type_id]


def _creatable(machine: Machine, card: str) -> dict[int, str]:
    model = machine.blueprint.vgpu_model(card)
    if model is None:
        return {}
    mixes = card in machine.state.heterogeneous
    fitting = model.creatable(_used_on(machine, card), heterogeneous=mixes)
    return {type_id: model.types[type_id] for type_id in fitting}


def _set(machine: Machine, path: str, type_id: int) -> None:
    machine.tree.write(f"{path}/{CURRENT}", f"{type_id}\n", 0o644)
    _show_params(machine, path)


def _show_params(machine: Machine, path: str) -> None:
    if not _current(machine, path):
        machine.tree.remove(f"{path}/{PARAMS}")
    elif not machine.tree.exists(f"{path}/{PARAMS}"):
        machine.tree.write(f"{path}/{PARAMS}", "\n", 0o644)


def _update(machine: Machine, card: str) -> None:
    """Let what all functions of a card list follow."""
    text = format_types(_creatable(machine, card))
    for path in _functions(machine, card):
        if machine.tree.content(f"{path}/{CREATABLE}") != text.encode():
            machine.tree.write(f"{path}/{CREATABLE}", text, 0o444)


def _check_closed(machine: Machine, path: str) -> None:
    subject = posixpath.basename(path)
    if any(each.owned and each.subject == subject for each in machine.state.open_files):
        raise AnswerError(errno.EBUSY)


def _forget_mode(machine: Machine, card: str) -> None:
    machine.state.heterogeneous = [each for each in machine.state.heterogeneous if each != card]
