"""Edge case 50: a virtual function whose PF is on vfio-pci opens with the PF's token alone."""

from __future__ import annotations

import pytest

from tests.simulation.hosts import NIC, NVME, NVME_VFS, UUID, UUID_2, Shell, answers
from vfiohost.errors import NotFoundError

ENABLE_SRIOV = "sys/module/vfio_pci/parameters/enable_sriov"
VF, OTHER_VF = NVME_VFS[:2]
TOKEN, OTHER = f"vf_token={UUID}", f"vf_token={UUID_2}"


@pytest.fixture
def card(host: Shell) -> Shell:
    host.echo("Y", ENABLE_SRIOV)
    host.to_vfio(NVME)
    host.numvfs(NVME, "2")
    return host


def test_without_the_token_there_is_no_way_in(card: Shell) -> None:
    for options in ("", TOKEN):
        with answers("EACCES", "ioctl"):
            card.kernel.open_device(VF, options=options)
    assert card.kernel.holders == ()


def test_the_user_of_the_pf_gives_the_token(card: Shell) -> None:
    with card.kernel.open_device(NVME, options=TOKEN):
        with answers("EACCES", "ioctl"):
            card.kernel.open_device(VF, options=OTHER)
        card.kernel.open_device(VF, options=TOKEN.upper().replace("VF_TOKEN", "vf_token")).close()
    card.kernel.open_device(VF, options=TOKEN).close()  # it stays after the PF's user


def test_a_pf_whose_vfs_are_in_use_opens_with_the_token_alone(card: Shell) -> None:
    card.kernel.open_device(NVME, options=TOKEN).close()
    with card.kernel.open_device(VF, options=TOKEN):
        for options in ("", OTHER):
            with answers("EACCES", "ioctl"):
                card.kernel.open_device(NVME, options=options)
        card.kernel.open_device(NVME, options=TOKEN).close()
    card.kernel.open_device(NVME, options=OTHER).close()
    with answers("EACCES", "ioctl"):
        card.kernel.open_device(VF, options=TOKEN)


def test_the_token_goes_with_the_driver(card: Shell) -> None:
    card.kernel.open_device(NVME, options=TOKEN).close()
    card.unbind("vfio-pci", NVME)
    card.bind("vfio-pci", NVME)
    card.numvfs(NVME, "1")
    with answers("EACCES", "ioctl"):
        card.kernel.open_device(VF, options=TOKEN)


@pytest.mark.parametrize(
    "options", ["colour=red", "vf_token=1234", f"{TOKEN} {TOKEN}", f"vf_token={UUID}0", UUID]
)
def test_what_is_no_option_is_einval(card: Shell, options: str) -> None:
    with answers("EINVAL", "ioctl"):
        card.kernel.open_device(NVME, options=options)


def test_a_token_where_none_is_needed_is_einval(host: Shell) -> None:
    host.to_vfio(NIC)
    host.unbind("e1000e", "0000:01:00.1")
    host.numvfs(NVME, "1")  # the PF is on nvme
    host.unbind("nvme", VF)
    host.override(VF, "vfio-pci")
    host.bind("vfio-pci", VF)
    for address in (NIC, VF):
        with answers("EINVAL", "ioctl"):
            host.kernel.open_device(address, options=TOKEN)
        host.kernel.open_device(address).close()


def test_an_unknown_device_is_not_found(host: Shell) -> None:
    with pytest.raises(NotFoundError):
        host.kernel.open_device(OTHER_VF, options=TOKEN)
