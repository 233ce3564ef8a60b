"""KubeVirt's configuration, and the part of a virtual machine's that names devices. Pure.

What is offered is NVIDIA's sandbox device plugin's, hence ``externalResourceProvider``: KubeVirt
starts no plugin of its own for it, and takes no such mediated device away. But vGPUs without
mediated devices that plugin does not know (1.6.0), and KubeVirt's own does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.guests.resources import device_resource, is_offered, mdev_resource
from vfiohost.model import Problem
from vfiohost.nvidia import is_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.guests.ready import Ready
    from vfiohost.model import PciDevice
    from vfiohost.names import PciNames

_GPU, _HOST_DEVICES, _NO_MDEV = "GPU", "HostDevices", "DisableMDEVConfiguration"
_BASE_DISPLAY = 0x03


def kubevirt_yaml(ready: Ready, names: PciNames) -> str:
    """Make the part of the KubeVirt resource that lets machines have what is ready, as YAML.

    Args:
        ready: what guests can be given.
        names: for the names of resources.
    """
    lines = ["# For the KubeVirt resource.", "spec:", "  configuration:"]
    gates = list(_gates(ready))
    if gates:
        lines += ["    # Keep the gates that are there already.", "    developerConfiguration:"]
        lines += ["      featureGates:", *(f"        - {_quoted(gate)}" for gate in gates)]
    if _NO_MDEV in gates:
        lines += [
            "    # KubeVirt 1.8 and newer have this in place of the gate DisableMDEVConfiguration:",
            "    # mediatedDevicesConfiguration:",
            "    #   enabled: false",
        ]
    pairs = {_selector(d): device_resource(d, names) for d in ready.devices if is_offered(d)}
    own = {_selector(d): device_resource(d, names) for d in _own(ready)}
    types = [m.type_name for m in ready.mdevs if isinstance(m.type_name, str)]
    if not pairs and not own and not types:
        return "\n".join([*lines, "    permittedHostDevices: {}", ""])
    lines.append("    permittedHostDevices:")
    if pairs or own:
        lines.append("      pciHostDevices:")
    for selector, resource in pairs.items():
        lines += _permitted("pciVendorSelector", selector, resource)
    if own:
        lines.append("        # vGPUs that KubeVirt's own plugin offers; of any type, by one name.")
    for selector, resource in own.items():
        lines += _permitted("pciVendorSelector", selector, resource, is_external=False)
    if types:
        lines.append("      mediatedDevices:")
    for name in dict.fromkeys(types):
        lines += _permitted("mdevNameSelector", name, mdev_resource(name))
    return "\n".join([*lines, ""])


def vmi_yaml(ready: Ready, names: PciNames) -> str:
    """Make the part of a virtual machine that asks for all that is ready, as YAML.

    Args:
        ready: what the machine is to be given.
        names: for the names of resources.
    """
    offered = _given(ready)
    gpus = [device_resource(d, names) for d in offered if _is_display(d)]
    gpus += [mdev_resource(m.type_name) for m in ready.mdevs if isinstance(m.type_name, str)]
    others = [device_resource(d, names) for d in offered if not _is_display(d)]
    lines = ["# For a VirtualMachineInstance; of a VirtualMachine it is below spec.template."]
    lines += ["spec:", "  domain:", "    devices:", _list_key("      gpus:", gpus)]
    lines += _asked("gpu", gpus)
    lines.append(_list_key("      hostDevices:", others))
    return "\n".join([*lines, *_asked("device", others), ""])


def left_out(ready: Ready) -> Iterator[Problem]:
    """What is ready, but not for a cluster: nobody offers it there."""
    given = {device.address for device in _given(ready)}
    for device in ready.devices:
        if device.address in given:
            continue
        sentence = "NVIDIA's device plugin does not offer it, so it is left out."
        if device.address in ready.vgpus:
            sentence = (
                f"{device.ids} is what NVIDIA's device plugin offers here, so that KubeVirt's own "
                "does not offer this vGPU, and it is left out."
            )
        yield Problem(str(device.address), None, sentence)


def _own(ready: Ready) -> list[PciDevice]:
    """The vGPUs that KubeVirt's own plugin offers: it finds devices by their ids alone."""
    external = {d.ids for d in ready.devices if is_offered(d)}
    return [d for d in ready.devices if d.address in ready.vgpus and d.ids not in external]


def _given(ready: Ready) -> list[PciDevice]:
    """The devices that somebody offers to machines."""
    own = {device.address for device in _own(ready)}
    return [d for d in ready.devices if is_offered(d) or d.address in own]


def _gates(ready: Ready) -> Iterator[str]:
    offered = _given(ready)
    if ready.mdevs or any(map(_is_display, offered)):
        yield _GPU
    if not all(map(_is_display, offered)):
        yield _HOST_DEVICES
    if ready.mdevs:
        yield _NO_MDEV


def _is_display(device: PciDevice) -> bool:
    """Whether a function goes below ``gpus``: a GPU, or a virtual function of one."""
    return is_gpu(device) or device.base_class == _BASE_DISPLAY


def _selector(device: PciDevice) -> str:
    """How KubeVirt's configuration has the ids: ``10DE:2236``."""
    return device.ids.upper()


def _permitted(key: str, selector: str, resource: str, *, is_external: bool = True) -> list[str]:
    lines = ["externalResourceProvider: true"] if is_external else []
    lines += [f"{key}: {_quoted(selector)}", f"resourceName: {_quoted(resource)}"]
    return [f"        {'  ' if n else '- '}{line}" for n, line in enumerate(lines)]


def _asked(prefix: str, resources: list[str]) -> Iterator[str]:
    for number, resource in enumerate(resources, 1):
        yield f"        - name: {_quoted(f'{prefix}{number}')}"
        yield f"          deviceName: {_quoted(resource)}"


def _list_key(key: str, entries: list[str]) -> str:
    """The line above a list: an empty one needs its brackets."""
    return key if entries else f"{key} []"


def _quoted(text: str) -> str:
    """A text in YAML's double quotes, where nothing but printable ASCII stands for itself."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if " " <= letter <= "~" else f"\\U{ord(letter):08x}"
