"""Resetting functions, and choosing how.

Kernel: ``drivers/pci/pci-sysfs.c``, ``drivers/pci/pci.c``.
"""

from __future__ import annotations

import errno
import posixpath
from typing import TYPE_CHECKING

from vfiohost.model import PciAddress
from vfiohost.testing import kernel_text
from vfiohost.testing.machine import AnswerError
from vfiohost.testing.matching import ids_of

if TYPE_CHECKING:
    from vfiohost.recording import Function
    from vfiohost.testing.machine import Machine

_MOST_METHODS = 7  # as many as pci_reset_fn_methods has

# Every virtual function can do this (PCI Express, "VFs must support FLR").
_OF_A_VF = ("flr",)

# QEMU's pcie-root-port: the link does not come up again after a reset of the bus behind it.
_LINK_STAYS_DOWN = frozenset({(0x1B36, 0x000C)})


def store_reset(machine: Machine, path: str, data: bytes) -> None:
    """``reset_store`` and ``pci_reset_function``: whoever has the device is not asked.

    Not even a removal that it has waited for: the device is only gone when the reset is over.

    Raises:
        BlockedError: an unbind of the device is stuck.
    """
    if kernel_text.unsigned(data, bits=64) != 1:
        raise AnswerError(errno.EINVAL)
    if machine.is_resumed and not machine.tree.exists(path):
        return
    methods = _methods(machine, path)
    if methods == []:
        raise AnswerError(errno.ENOTTY)
    bridge = _bridge(machine, path)
    if bridge is not None:
        machine.lock(posixpath.basename(bridge))
    machine.lock(posixpath.basename(path))
    if machine.tree.text(f"{path}/power_state") == "unknown":
        machine.tree.write(f"{path}/power_state", "D0\n")  # pci_dev_save_and_disable
    # The recording of an older kernel does not tell the methods: one of them succeeds.
    if methods is not None and not any(_resets(machine, path, each) for each in methods):
        raise AnswerError(errno.ENOTTY)


def store_method(machine: Machine, path: str, data: bytes) -> None:
    """``reset_method_store``: what cannot be used leaves the previous methods."""
    text = kernel_text.name(data)
    if text == "default":
        set_default_methods(machine, path)
        return
    # strsep() and strim(): only spaces separate, and more than that is trimmed
    words = [word.strip() for word in text.split(" ") if word not in ("", "\n")]
    supported = _supported(machine, path)
    if len(words) > _MOST_METHODS or not set(words) <= set(supported):
        raise AnswerError(errno.EINVAL)
    _set_methods(machine, path, words)


def store_subordinate(machine: Machine, path: str, data: bytes) -> None:
    """``reset_subordinate_store`` and ``__pci_reset_bus``: does not wait for anybody."""
    value = kernel_text.unsigned(data, bits=64)
    if value is None:
        raise AnswerError(errno.EINVAL)
    if value == 0:
        return
    if any(machine.is_locked(posixpath.basename(each)) for each in _with_all_below(machine, path)):
        raise AnswerError(errno.EAGAIN)  # pci_bus_trylock
    if machine.pci_children(path) and not _link_returns(machine, path):
        raise AnswerError(errno.ENOTTY)


def set_default_methods(machine: Machine, path: str) -> None:
    """``pci_init_reset_methods``: all that the device has, where it shows them."""
    if machine.tree.exists(f"{path}/reset_method"):
        _set_methods(machine, path, _supported(machine, path))


def _methods(machine: Machine, path: str) -> list[str] | None:
    """The methods that are chosen, or ``None`` where the kernel does not show them."""
    text = machine.tree.text(f"{path}/reset_method")
    return None if text is None else text.split()


def _set_methods(machine: Machine, path: str, methods: list[str]) -> None:
    text = " ".join(methods)
    machine.tree.write(f"{path}/reset_method", f"{text}\n" if text else "")


def _supported(machine: Machine, path: str) -> list[str]:
    """The methods that a device has now: the recorded ones, ``bus`` only while it is alone.

    Of several functions only the one that was found first has it recorded.
    """
    address = posixpath.basename(path)
    known = machine.blueprint.functions
    physfn = machine.physfn_of(path)
    if physfn is not None:
        vf = known.get(address) or machine.blueprint.vf_template(physfn, 0)
        return _recorded(vf) or list(_OF_A_VF)
    of_a_card = [each for name, each in known.items() if name[:-1] == address[:-1]]
    methods = [each for each in _recorded(known.get(address)) if each != "bus"]
    with_bus = any("bus" in _recorded(each) for each in of_a_card)
    return [*methods, "bus"] if with_bus and _is_alone(machine, path) else methods


def _recorded(function: Function | None) -> list[str]:
    attribute = None if function is None else function.attributes.get("reset_method")
    content = None if attribute is None else attribute.content
    return content.decode("ascii", "replace").split() if isinstance(content, bytes) else []


def _resets(machine: Machine, path: str, method: str) -> bool:
    """Whether a method works: with ENOTTY the next one is tried (``pci_parent_bus_reset``)."""
    if method != "bus":
        return True
    bridge = _bridge(machine, path)
    return bridge is not None and _is_alone(machine, path) and _link_returns(machine, bridge)


def _is_alone(machine: Machine, path: str) -> bool:
    """Whether a device is the only one on its bus."""
    bus = PciAddress.parse(posixpath.basename(path)).bus
    beside = machine.pci_children(posixpath.dirname(path))
    return [each for each in beside if PciAddress.parse(posixpath.basename(each)).bus == bus] == [
        path
    ]


def _link_returns(machine: Machine, bridge: str) -> bool:
    ids = ids_of(machine.modalias(bridge))
    return ids is None or ids[:2] not in _LINK_STAYS_DOWN


def _bridge(machine: Machine, path: str) -> str | None:
    """The port that a device is behind (``pci_upstream_bridge``)."""
    above = posixpath.dirname(path)
    return above if machine.pci_path(posixpath.basename(above)) == above else None


def _with_all_below(machine: Machine, path: str) -> list[str]:
    below = [
        each for child in machine.pci_children(path) for each in _with_all_below(machine, child)
    ]
    return [path, *below]
