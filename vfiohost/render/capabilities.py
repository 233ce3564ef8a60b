"""What a configuration space says, as lines and as JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vfiohost.config_space.values import (
        Acs,
        ConfigSpace,
        Express,
        Msi,
        MsiX,
        PowerManagement,
        Sriov,
    )


def capability_rows(space: ConfigSpace) -> Iterator[str]:
    """A line for each capability but those that are empty; of a kind, the first is explained."""
    explained = set[tuple[bool, int]]()
    for capability in space.capabilities:
        if not capability.id:
            continue
        kind = (capability.is_extended, capability.id)
        explain = _EXPLAINED.get(kind) if kind not in explained else None
        explained.add(kind)
        said = explain(space) if explain else ""
        head = f"[{capability.offset:02x}] {capability.name}"
        yield f"{head}: {said}" if said else head


def _power(power: PowerManagement) -> str:
    wakes = f"can wake from {', '.join(power.pme)}" if power.pme else "cannot wake the host"
    said = [power.state, f"has {', '.join(power.states)}", wakes + " (on)" * power.pme_on]
    said += ["keeps its state in D3hot"] * power.no_soft_reset
    return "; ".join(said)


def _msi(msi: Msi) -> str:
    said = f"{_on(msi.enabled)}, {msi.vectors} of {msi.max_vectors} vectors"
    return said + ", 64-bit" * msi.is_64bit + ", maskable" * msi.maskable


def _msix(msix: MsiX) -> str:
    vectors = f"{msix.vectors} vector{'' if msix.vectors == 1 else 's'}"
    return f"{_on(msix.enabled)}, {vectors}" + ", all masked" * msix.masked


def _express(express: Express) -> str:
    said = [express.port_name, *["function level reset"] * express.flr]
    said.append(f"payload {express.payload} of {express.max_payload} bytes")
    if express.ari_forwarding:
        said.append(f"ARI forwarding {_on(express.ari_forwarding_on)}")
    return ", ".join(said)


def _sriov(sriov: Sriov) -> str:
    said = [f"{_on(sriov.enabled)}, {sriov.num_vfs} of {sriov.total_vfs} virtual functions"]
    said += [f"{sriov.initial_vfs} at first"] * (sriov.initial_vfs != sriov.total_vfs)
    said += [f"device {sriov.vf_device_id:04x}", f"offset {sriov.offset}", f"stride {sriov.stride}"]
    return ", ".join([*said, *["ARI"] * sriov.ari])


def _acs(acs: Acs) -> str:
    on = ", ".join(acs.on) or "nothing"
    off = ", ".join(control for control in acs.able if control not in acs.on)
    return f"on: {on}" + (f"; off: {off}" if off else "")


def _on(flag: bool) -> str:  # noqa: FBT001
    return "on" if flag else "off"


def _ari(space: ConfigSpace) -> str:
    following = space.ari_next_function
    return f"next function {following}" if following else ""


_EXPLAINED: Mapping[tuple[bool, int], Callable[[ConfigSpace], str]] = {
    (False, 0x01): lambda space: _power(space.power) if space.power else "",
    (False, 0x03): lambda _: "not read: that would write to the device",
    (False, 0x05): lambda space: _msi(space.msi) if space.msi else "",
    (False, 0x10): lambda space: _express(space.express) if space.express else "",
    (False, 0x11): lambda space: _msix(space.msix) if space.msix else "",
    (False, 0x13): lambda space: "function level reset" if space.af_flr else "",
    (True, 0x03): lambda space: space.serial or "",
    (True, 0x0D): lambda space: _acs(space.acs) if space.acs else "",
    (True, 0x0E): _ari,
    (True, 0x10): lambda space: _sriov(space.sriov) if space.sriov else "",
}
"""What is said of a capability: by whether it is an extended one, and its id."""


def space_value(space: ConfigSpace) -> dict[str, Any]:
    """A configuration space, in the words of ``schema.json``."""
    express, acs, sriov = space.express, space.acs, space.sriov
    return {
        "size": space.size,
        "answers": space.answers,
        "command": None if space.command is None else f"{space.command:04x}",
        "chain": space.chain,
        "extended_chain": space.extended_chain,
        "capabilities": [
            {
                "id": f"{c.id:04x}" if c.is_extended else f"{c.id:02x}",
                "offset": c.offset,
                "version": c.version,
                "extended": c.is_extended,
                "name": c.name,
            }
            for c in space.capabilities
        ],
        "express": None
        if express is None
        else attrs.asdict(express) | {"port_type": express.port_name},
        "power": _fields(space.power),
        "msi": _fields(space.msi),
        "msix": _fields(space.msix),
        "sriov": None
        if sriov is None
        else attrs.asdict(sriov) | {"vf_device_id": f"{sriov.vf_device_id:04x}"},
        "acs": None if acs is None else {"able": list(acs.able), "on": list(acs.on)},
        "ari_next_function": space.ari_next_function,
        "serial": space.serial,
        "has_flr": space.has_flr,
        "has_vpd": space.has_vpd,
    }


def _fields(value: PowerManagement | Msi | MsiX | None) -> dict[str, Any] | None:
    if value is None:
        return None
    fields = attrs.asdict(value)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
