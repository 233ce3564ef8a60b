"""Whole systems on a disk: Debian 12 with systemd, udev, and an initramfs of its own making.

The lab's other machines have the host's files for their root, and nothing in them boots. Here the
guest starts as a server does: its initramfs and then its systemd load the drivers of the devices.
Kernel and initramfs are taken out of the disk, so that the one is booted that the guest has made.
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from tests.kernel.lab.cache import Cache, digest
from tests.kernel.lab.errors import LabError, LabUnavailableError
from tests.kernel.lab.flavours import prepare
from tests.kernel.lab.images import Image
from tests.kernel.lab.kernels import Kernel
from tests.kernel.lab.layout import IOMMU, ROOM, agent_options, chipset_options, nic
from tests.kernel.lab.programs import need, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GENERATORS = ("initramfs-tools", "dracut")
"""The programs that make the initramfs: an image for each."""

CHECKOUT = Path(__file__).parents[3]
PYTHON = (3, 11)
"""Debian 12's, for which the tests' own dependencies must be, as they are copied into the guest."""

SUITE = "bookworm"
PACKAGES = ("systemd-sysv", "udev", "kmod", "iproute2", "python3", "lz4")
FLAVOUR = "6.1"
"""Debian 12's own kernel, of the very version for which the lab has built its modules."""
STAND_INS = ("synthgpu", "nvidia")
"""Of the lab's modules those that a guest may install from the disk with vfiohost."""
DISK = "1500M"
PRODUCT = "product"
"""The label of the disk with vfiohost, and where the guest has it below ``/opt``."""

# What the guest's own tools would do at every boot and that has no bearing on what is tested.
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
)

_FSTAB = f"LABEL={PRODUCT} /opt/{PRODUCT} ext4 ro 0 0\n"
_AGENT = f"""\
[Unit]
Description=What the tests call
RequiresMountsFor=/opt/{PRODUCT}
After=systemd-udev-settle.service
Wants=systemd-udev-settle.service

[Service]
WorkingDirectory=/opt/{PRODUCT}
Environment=PYTHONPATH=/opt/{PRODUCT}:/opt/{PRODUCT}/site PYTHONDONTWRITEBYTECODE=1 LANG=C.UTF-8
ExecStart=/usr/bin/python3 -m tests.kernel.lab.agent
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""
IN_INITRAMFS = ("virtio_pci", "virtio_blk", "ext4", "e1000e")
"""The modules in the initramfs: what the guest starts with, and the driver that tests are about.

Debian's default is hundreds of modules, for which an emulated processor needs many minutes each
time that the guest makes its initramfs anew.
"""

_HOOK = f"""\
#!/bin/sh
[ "$1" != prereqs ] || exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules {" ".join(IN_INITRAMFS)}
"""
_CONF = {
    "initramfs-tools": {
        "etc/initramfs-tools/conf.d/lab": "COMPRESS=lz4\nMODULES=list\n",
        "etc/initramfs-tools/hooks/lab": _HOOK,
    },
    "dracut": {
        "etc/dracut.conf.d/lab.conf": (
            f'compress="lz4"\nhostonly="no"\ndrivers+=" {" ".join(IN_INITRAMFS)} "\n'
        )
    },
}
"""What the programs are told, before they make the first initramfs."""


@attrs.frozen
class BootDisk:
    """The disk of one guest, which keeps what is done in it.

    Attributes:
        generator: what makes its initramfs.
        folder: of this test; the disk is in it, and the files that are taken out of it.
        product: the disk with vfiohost.
    """

    generator: str
    folder: Path
    product: Path

    @property
    def disk(self) -> Path:
        """The file that holds the disk."""
        return self.folder / "root.img"

    def image(self) -> Image:
        """What the machine boots now: the kernel and the initramfs that are on the disk.

        Raises:
            LabError: they are not there.
        """
        names = run("debugfs", "-R", "ls -p /boot", str(self.disk)).splitlines()
        found = [name for line in names for name in line.split("/") if name.startswith("vmlinuz-")]
        if len(found) != 1:
            raise LabError(f"there is not one kernel on {self.disk}: {found}")
        release = found[0].removeprefix("vmlinuz-")
        kernel = self._take_out(found[0])
        initramfs = self._take_out(f"initrd.img-{release}")
        nothing = self.folder
        made = Kernel("boot", release, release, kernel, nothing, nothing, nothing)
        return Image(made, nothing, initramfs)

    def options(self, functions: Sequence[str]) -> Callable[[Path], list[str]]:
        """What makes the options of a machine with this disk.

        Args:
            functions: the options of the functions that the test is about.
        """
        return lambda folder: [
            *chipset_options(folder),
            *agent_options(folder),
            *("-smp", "2", "-m", "1G"),
            *IOMMU,
            *_drive("root", self.disk, "04.0"),
            *_drive("product", self.product, "05.0", readonly=True),
            *functions,
        ]

    def _take_out(self, name: str) -> Path:
        target = self.folder / name
        target.unlink(missing_ok=True)
        run("debugfs", "-R", f"dump /boot/{name} {target}", str(self.disk))
        if not target.is_file() or not target.stat().st_size:
            raise LabError(f"there is no /boot/{name} on {self.disk}")
        return target


def nics(*slots: int) -> list[str]:
    """Network cards of one kind, each behind a root port of its own.

    The firmware numbers the buses behind the ports from 1, in the order of the ports' slots.

    Args:
        slots: of the root ports.
    """
    options = []
    for slot in slots:
        name = f"port{slot:02x}"
        options += ["-device", f"pcie-root-port,id={name},chassis={slot},addr={slot:02x}.0"]
        options += nic(f"nic{slot:02x}", f"e1000e,bus={name}")
    return options


def sounds(*slots: int) -> list[str]:
    """Sound cards of one kind; no initramfs has their driver.

    Args:
        slots: where.
    """
    return [option for slot in slots for option in ("-device", f"intel-hda,addr={slot:02x}.0")]


def ports(*slots: int) -> list[str]:
    """Empty root ports, into which ``synthgpu`` plugs cards.

    Args:
        slots: of the ports.
    """
    devices = [f"pcie-root-port,chassis={slot},addr={slot:02x}.0,{ROOM}" for slot in slots]
    return [option for device in devices for option in ("-device", device)]


def prepare_disk(generator: str, folder: Path) -> BootDisk:
    """Make a disk that a test may change.

    Args:
        generator: one of :data:`GENERATORS`.
        folder: where; it belongs to the test.

    Raises:
        LabUnavailableError: this computer cannot.
        LabError: the system could not be installed.
    """
    need("mmdebstrap", "fakeroot", "mkfs.ext4", "debugfs")
    if sys.version_info[:2] != PYTHON:
        raise LabUnavailableError(f"the guest has Python {'.'.join(map(str, PYTHON))}")
    lab = prepare(FLAVOUR)
    packages = (*PACKAGES, f"linux-image-{lab.kernel.release}", generator)
    system = (SUITE, lab.kernel.version, *packages, DISK)
    recipe = (*system, *_MASKED, _FSTAB, _AGENT, str(_CONF[generator]))
    entry = Cache().entry(
        f"boot-{generator}-{digest(recipe)}", lambda made: _build(generator, packages, made)
    )
    made = BootDisk(generator, folder, folder / "product.img")
    run("cp", "--sparse=always", str(entry / "root.img"), str(made.disk))
    _make_product(folder / "product", lab.modules / "updates", made.product)
    return made


def _build(generator: str, packages: Sequence[str], folder: Path) -> None:
    """Install Debian into a directory, and make a disk of it. Needs no root."""
    archive, tree, image = folder / "root.tar", folder / "tree", folder / "root.img"
    system = "etc/systemd/system"
    files = {**_CONF[generator], "etc/fstab": _FSTAB, f"{system}/lab-agent.service": _AGENT}
    hooks = []
    for number, (path, text) in enumerate(files.items()):
        source = folder / f"file{number}"
        source.write_text(text)
        source.chmod(0o755 if text.startswith("#!") else 0o644)
        hooks += [
            f'--essential-hook=mkdir -p "$1/{Path(path).parent}"',
            f'--essential-hook=cp -p "{source}" "$1/{path}"',
        ]
    hooks += [
        f'--customize-hook=mkdir -p "$1/opt/{PRODUCT}"',
        '--customize-hook=chroot "$1" systemctl enable lab-agent.service',
        f'--customize-hook=chroot "$1" systemctl mask {" ".join(_MASKED)}',
    ]
    include = f"--include={','.join(packages)}"
    run("mmdebstrap", "--variant=minbase", include, *hooks, SUITE, str(archive))
    tree.mkdir()
    make = (
        f"tar -C '{tree}' -xf '{archive}' --exclude=./dev/* && "
        f"mkfs.ext4 -q -O ^has_journal -E root_owner=0:0 -d '{tree}' '{image}' {DISK}"
    )
    run("fakeroot", "sh", "-c", make)
    run("fakeroot", "rm", "-rf", str(tree))
    archive.unlink()


def _make_product(folder: Path, modules: Path, image: Path) -> None:
    """Make a disk with vfiohost as it is here, what it needs, the lab's agent and stand-ins."""
    code = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "vfiohost", folder / "vfiohost", ignore=code)
    lab = Path("tests") / "kernel" / "lab"
    shutil.copytree(CHECKOUT / lab, folder / lab, ignore=code)
    (folder / "modules").mkdir()
    for name in STAND_INS:
        shutil.copy(modules / f"{name}.ko", folder / "modules")
    for name in ("attrs", "cffi", "pyudev"):
        for file in distribution(name).files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = folder / "site" / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(file.locate()), target)
    run(
        "mkfs.ext4", "-q", "-O", "^has_journal", "-L", PRODUCT, "-d", str(folder), str(image), "64M"
    )


def _drive(name: str, file: Path, place: str, *, readonly: bool = False) -> list[str]:
    only = "on" if readonly else "off"
    return [
        *("-drive", f"if=none,id={name},file={file},format=raw,cache=unsafe,readonly={only}"),
        *("-device", f"virtio-blk-pci,drive={name},addr={place}"),
    ]
