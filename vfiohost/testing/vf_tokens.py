"""Opening a virtual function whose physical function a process drives through vfio-pci, too.

Kernel: ``vfio_pci_core_match`` and ``vfio_pci_validate_vf_token`` in
``drivers/vfio/pci/vfio_pci_core.c``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfiohost.testing import kernel_text

if TYPE_CHECKING:
    from vfiohost.testing.machine import Machine

_OPTION = "vf_token="
_UUID_LENGTH = 36


def answer(machine: Machine, address: str, path: str, options: str) -> int:
    """Judge the options of GET_DEVICE_FD, and keep the token that a physical function is given.

    Args:
        machine: the host.
        address: a function that a VFIO driver is bound to; a mediated device has no options.
        path: its directory.
        options: what follows the address.

    Returns:
        An errno, 0 when the device can be opened.
    """
    words = options.split()
    if not words:
        token = None
    else:
        token = _uuid(words[0].removeprefix(_OPTION))
        if len(words) > 1 or not words[0].startswith(_OPTION) or token is None:
            return errno.EINVAL
    tokens, physfn = machine.state.vf_tokens, machine.tree.link_name(f"{path}/physfn")
    if physfn is not None and machine.driver_of(physfn) == "vfio-pci":
        return 0 if token is not None and tokens.get(physfn) == token else errno.EACCES
    if physfn is not None or not machine.tree.exists(f"{path}/sriov_totalvfs"):
        return 0 if token is None else errno.EINVAL
    if _has_users(machine, address):
        return 0 if token is not None and tokens.get(address) == token else errno.EACCES
    if token is not None:
        tokens[address] = token
    return 0


def _uuid(text: str) -> str | None:
    return kernel_text.uuid(text.encode()) if len(text) == _UUID_LENGTH else None


def _has_users(machine: Machine, physfn: str) -> bool:
    """Whether one of its virtual functions is open (``vfio_pci_vf_token_user_add``)."""
    subjects = {file.subject for file in machine.state.open_files if file.subject is not None}
    paths = filter(None, map(machine.pci_path, subjects))
    return any(machine.tree.link_name(f"{path}/physfn") == physfn for path in paths)
