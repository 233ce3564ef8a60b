"""The service that makes virtual functions and vGPUs when the host starts. Pure."""

from __future__ import annotations

from vfiohost.boot.words import comments

WAIT_SECONDS = 60
"""How long a start may wait for the devices of the host file."""

UNIT_PATH = "etc/systemd/system/vfiohost.service"


def unit_text(program: str = "/usr/bin/vfiohost") -> str:
    """The unit: once, when the devices are there and before those who hand them out.

    It does not wait for ``systemd-udev-settle.service``, which waits for every device of the host,
    but for the modules that are loaded by name, and for the events of the first pass over the
    devices (``systemd-udev-trigger.service`` ends when they are sent, so ``apply --wait`` itself
    waits for the devices that it is about).

    Args:
        program: where vfiohost is.
    """
    lines = [
        *comments("Makes virtual functions and vGPUs, before those start who hand them out."),
        "[Unit]",
        "Description=Virtual functions and vGPUs for guests",
        "Documentation=man:vfiohost(1)",
        "After=local-fs.target systemd-modules-load.service systemd-udev-trigger.service",
        "Before=libvirtd.service virtqemud.service virtnodedevd.service kubelet.service",
        "Before=k3s.service pve-guests.service",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        f"ExecStart={program} apply --wait {WAIT_SECONDS}",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join([*lines, ""])
