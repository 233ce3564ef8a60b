"""Bytes of a configuration space -> values. The walk and the bits are those of the C core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vfiohost import native
from vfiohost.config_space.values import (
    Acs,
    Capability,
    ConfigSpace,
    Express,
    Link,
    Msi,
    MsiX,
    PowerManagement,
    Sriov,
    power_states,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfiohost.config_space.values import Chain

    Registers = Mapping[str, int]

# VH_CHAIN_... of csrc/vfiohost.cdef.h.
_CHAINS: Final[tuple[Chain, ...]] = ("none", "whole", "cut", "loop", "astray")
# pcie_link_speed[] in drivers/pci/probe.c; 0 and what comes behind are no speeds.
_SPEEDS: Final = (None, "2.5 GT/s", "5.0 GT/s", "8.0 GT/s", "16.0 GT/s", "32.0 GT/s", "64.0 GT/s")
_D0, _D3HOT = 1 << 0, 1 << 3


def decode(config: bytes) -> ConfigSpace:
    """Take a configuration space apart.

    Args:
        config: 64 bytes (what an ordinary user may read), 256 or 4096, or anything else.

    Returns:
        What it says. A chain that loops, leads astray or is cut off ends there; nothing is raised.
    """
    found, capabilities = native.decode_config(config)
    return ConfigSpace(
        size=len(config),
        answers=bool(found["answers"]),
        command=_known(found["command"]),
        chain=_CHAINS[found["chain"]],
        extended_chain=_CHAINS[found["extended_chain"]],
        capabilities=tuple(Capability(*each) for each in capabilities),
        express=_express(found) if found["exp_version"] >= 0 else None,
        power=_power(found) if found["pm_version"] >= 0 else None,
        msi=_msi(found) if found["msi_on"] >= 0 else None,
        msix=_msix(found) if found["msix_on"] >= 0 else None,
        sriov=_sriov(found) if found["sriov_on"] >= 0 else None,
        acs=_acs(found) if found["acs_control"] >= 0 else None,
        ari_next_function=_known(found["ari_next_function"]),
        serial=_serial(found) if found["dsn_high"] >= 0 else None,
        af_flr=bool(found["af_flr"]) if found["af_flr"] >= 0 else None,
    )


def _known(register: int) -> int | None:
    return None if register < 0 else register


def _express(found: Registers) -> Express:
    return Express(
        port_type=found["exp_type"],
        flr=bool(found["exp_flr"]),
        max_payload=128 << found["exp_max_payload"],
        payload=128 << found["exp_payload"],
        link=_link(found) if found["exp_speed"] >= 0 else None,
        ari_forwarding=found["exp_ari_forwarding"] == 1,
        ari_forwarding_on=found["exp_ari_forwarding_on"] == 1,
    )


def _link(found: Registers) -> Link:
    return Link(
        speed=_speed(found["exp_speed"]),
        width=found["exp_width"],
        max_speed=_speed(found["exp_max_speed"]),
        max_width=found["exp_max_width"],
    )


def _speed(code: int) -> str | None:
    return _SPEEDS[code] if code < len(_SPEEDS) else None


def _power(found: Registers) -> PowerManagement:
    states = _D0 | found["pm_d1"] << 1 | found["pm_d2"] << 2 | _D3HOT
    return PowerManagement(
        state=power_states(1 << found["pm_state"])[0],
        states=power_states(states),
        pme=power_states(found["pm_pme"]),
        pme_on=bool(found["pm_pme_on"]),
        no_soft_reset=bool(found["pm_no_soft_reset"]),
    )


def _msi(found: Registers) -> Msi:
    return Msi(
        enabled=bool(found["msi_on"]),
        vectors=1 << found["msi_used"],
        max_vectors=1 << found["msi_most"],
        is_64bit=bool(found["msi_64bit"]),
        maskable=bool(found["msi_maskable"]),
    )


def _msix(found: Registers) -> MsiX:
    return MsiX(
        enabled=bool(found["msix_on"]),
        vectors=found["msix_last"] + 1,
        masked=bool(found["msix_masked"]),
    )


def _sriov(found: Registers) -> Sriov:
    return Sriov(
        enabled=bool(found["sriov_on"]),
        memory_enabled=bool(found["sriov_memory_on"]),
        ari=bool(found["sriov_ari_on"]),
        initial_vfs=found["sriov_initial_vfs"],
        total_vfs=found["sriov_total_vfs"],
        num_vfs=found["sriov_num_vfs"],
        offset=found["sriov_offset"],
        stride=found["sriov_stride"],
        vf_device_id=found["sriov_vf_device"],
    )


def _acs(found: Registers) -> Acs:
    return Acs(found["acs_capability"], found["acs_control"])


def _serial(found: Registers) -> str:
    """The serial number, high byte first, as lspci and the kernel's ``serial_number`` show it."""
    number = found["dsn_high"] << 32 | found["dsn_low"]
    return number.to_bytes(8, "big").hex("-")
