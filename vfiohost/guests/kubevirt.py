"""KubeVirt's configuration, and the part of a virtual machine's that names devices. Pure.

NVIDIA's devices are offered by its sandbox device plugin, hence ``externalResourceProvider``:
KubeVirt starts no plugin of its own for them, and takes no such mediated device away. KubeVirt's
own offers what is left: other vendors' devices on ``vfio-pci``, by names that are free, and vGPUs
without mediated devices, which NVIDIA's plugin does not know (1.6.0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfiohost.guests.resources import device_resource, is_offered, mdev_resource
from vfiohost.model import Problem
from vfiohost.nvidia import VENDOR_ID, is_gpu
from vfiohost.plan.drivers import VFIO_PCI

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfiohost.guests.ready import Ready
    from vfiohost.model import PciDevice
    from vfiohost.names import PciNames

_GPU, _HOST_DEVICES, _NO_MDEV = "GPU", "HostDevices", "DisableMDEVConfiguration"
_BASE_DISPLAY = 0x03

_OWN_SAID = (
    "KubeVirt's own plugin offers these: all that have the ids, by one name; vGPUs of any type.",
    "The names are free: a machine asks by them.",
)

OWN_NAMESPACE = "vfiohost/"
"""Where the names are of what only KubeVirt's own plugin offers: ``vfiohost/8086_1572``."""


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
    own = {_selector(d): _resource(d, names) for d in _own(ready)}
    types = [m.type_name for m in ready.mdevs if isinstance(m.type_name, str)]
    if not pairs and not own and not types:
        return "\n".join([*lines, "    permittedHostDevices: {}", ""])
    lines.append("    permittedHostDevices:")
    if pairs or own:
        lines.append("      pciHostDevices:")
    for selector, resource in pairs.items():
        lines += _permitted("pciVendorSelector", selector, resource)
    if own:
        lines += [f"        # {line}" for line in _OWN_SAID]
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
    gpus = [_resource(d, names) for d in offered if _is_display(d)]
    gpus += [mdev_resource(m.type_name) for m in ready.mdevs if isinstance(m.type_name, str)]
    others = [_resource(d, names) for d in offered if not _is_display(d)]
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
        if device.address in ready.vgpus:
            sentence = (
                f"{device.ids} is what NVIDIA's device plugin offers here, so that KubeVirt's own "
                "does not offer this vGPU, and it is left out."
            )
        elif device.driver == VFIO_PCI:
            sentence = "It is in no IOMMU group, and no device plugin offers such a device."
        else:
            sentence = (
                f"No device plugin offers what is on {device.driver}, so it is left out. "
                f"KubeVirt's own would offer it on {VFIO_PCI}: "
                f"`vfiohost bind {device.address} --driver {VFIO_PCI}`."
            )
        yield Problem(str(device.address), None, sentence)


def _own(ready: Ready) -> list[PciDevice]:
    """What KubeVirt's own plugin offers: it finds devices by their ids alone.

    They must be on ``vfio-pci`` itself and in a group, or be vGPUs
    (``pkg/virt-handler/device-manager/pci_device.go``).
    """
    external = {d.ids for d in ready.devices if is_offered(d)}
    return [d for d in ready.devices if _is_own(d, ready) and d.ids not in external]


def _is_own(device: PciDevice, ready: Ready) -> bool:
    is_there = device.driver == VFIO_PCI and isinstance(device.iommu_group, int)
    return is_there or device.address in ready.vgpus


def _resource(device: PciDevice, names: PciNames) -> str:
    """The name by which a machine asks for a device: the plugin's, else one of ours."""
    if device.vendor_id == VENDOR_ID:
        return device_resource(device, names)
    return f"{OWN_NAMESPACE}{device.vendor_id:04x}_{device.device_id:04x}"


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
