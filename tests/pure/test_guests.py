"""What guests can be given, in the words of other tools."""

from __future__ import annotations

import json
import shlex
from xml.etree import ElementTree as ET

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pure.hosts import device, snapshot
from tests.strategies import TRICKY, addresses
from vfiohost.guests.cdi import cdi_json
from vfiohost.guests.kubevirt import kubevirt_yaml, left_out, vmi_yaml
from vfiohost.guests.libvirt import libvirt_xml
from vfiohost.guests.qemu import qemu_arguments
from vfiohost.guests.ready import Nodes, all_ready
from vfiohost.guests.resources import (
    collisions,
    device_resource,
    mdev_resource,
    nameless,
    namesakes,
    resources,
)
from vfiohost.model import MdevBus, MdevParent, MdevType, MediatedDevice, Snapshot, Unavailable
from vfiohost.names import PciNames


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("GA102GL [A10]", "GA102GL_A10"),
        ("GH100-88K-A1", "GH10088KA1"),
        ("TU102GL [Quadro RTX 6000/8000]", "TU102GL_QUADRO_RTX_6000_8000"),
        ("GA100 [A100 PCIe 40GB]", "GA100_A100_PCIE_40GB"),
        ("GH100 [GH200 120GB / 480GB]", "GH100_GH200_120GB___480GB"),
        ("stra\xdfe \xe9", "STRAE_"),
        ("[]", "2236"),
    ],
)
def test_a_name_is_the_device_plugins(name: str, resource: str) -> None:
    names = PciNames.from_text(f"10de  NVIDIA Corporation\n\t2236  {name}\n")
    gpu = attrs.evolve(device("0000:65:00.0"), vendor_id=0x10DE, device_id=0x2236)
    assert device_resource(gpu, names) == f"nvidia.com/{resource}"


def test_a_device_without_a_name_goes_by_its_number() -> None:
    gpu = attrs.evolve(device("0000:65:00.0"), vendor_id=0x10DE, device_id=0x2571)
    assert device_resource(gpu, PciNames(b"")) == "nvidia.com/2571"


def test_a_vgpus_name_keeps_case_and_hyphens() -> None:
    assert mdev_resource("NVIDIA  RTX6000-Ada-24Q\n") == "nvidia.com/NVIDIA_RTX6000-Ada-24Q"


# ---- any host ----------------------------------------------------------------------------------

_hostile = st.sampled_from(
    (*TRICKY, "--", "a--->", "]]>", "'\"<&", "\\U0001f600", "\ud800")
) | st.text(max_size=12)
_drivers = st.sampled_from(["vfio-pci", "nvgrace_gpu_vfio_pci", "mlx5_vfio_pci", "nvidia", None])
_devices = st.builds(
    lambda at, driver, ids, class_code, group: attrs.evolve(
        device(str(at), driver, ids=ids, class_code=class_code, group=group), address=at
    ),
    addresses,
    _drivers | st.just(Unavailable(13, "Permission denied")),
    st.sampled_from(["10de:2236", "10de:2237", "10de:10f8", "15b3:101e"]),
    st.sampled_from([0x030000, 0x030200, 0x040300, 0x060400, 0x068000]),
    st.none() | st.integers(0, 3) | st.just(Unavailable(13, "Permission denied")),
)
_mdevs = st.builds(
    MediatedDevice,
    uuid=st.uuids().map(str) | _hostile,
    parent=_hostile,
    type_id=_hostile | st.just(Unavailable(13, "Permission denied")),
    type_name=st.none() | _hostile,
    driver=st.none(),
    iommu_group=st.none() | st.integers(0, 3),
)


@st.composite
def hosts(draw: st.DrawFn) -> Snapshot:
    devices = draw(st.lists(_devices, max_size=6, unique_by=lambda d: d.address))
    mdevs = draw(st.lists(_mdevs, max_size=4, unique_by=lambda m: m.uuid))
    return snapshot(*devices, mdev=MdevBus((), tuple(mdevs)))


_nodes = st.builds(
    Nodes,
    st.dictionaries(st.integers(0, 3), _hostile),
    st.dictionaries(addresses.map(str), _hostile),
    st.booleans(),
)
_files = st.lists(_hostile, min_size=2, max_size=2).map(
    lambda n: PciNames.from_text(f"10de  NVIDIA\n\t2236  {n[0]}\n\t2237  {n[1]}\n")
)


@given(hosts())
def test_any_host_gives_elements_that_parse(host: Snapshot) -> None:
    ready = all_ready(host)
    root = ET.fromstring(f"<devices>{libvirt_xml(ready)}</devices>")
    addresses = [e.attrib for e in root.findall("hostdev/source/address")]
    assert len(addresses) == len(ready.devices) + len(ready.mdevs)
    assert [int(a["bus"], 16) for a in addresses if "bus" in a] == [
        d.address.bus for d in ready.devices
    ]


@given(hosts())
def test_any_host_gives_arguments_that_a_shell_reads(host: Snapshot) -> None:
    ready = all_ready(host)
    words = shlex.split(qemu_arguments(ready))
    assert words[::2] == ["-device"] * (len(ready.devices) + len(ready.mdevs))
    values = [w.partition("sysfsdev=/sys/bus/mdev/devices/")[2] for w in words[1::2]]
    assert [v.replace(",,", ",") for v in values if v] == [m.uuid for m in ready.mdevs if m.uuid]


@given(hosts(), _nodes)
def test_any_host_gives_json(host: Snapshot, nodes: Nodes) -> None:
    ready = all_ready(host)
    value = json.loads(cdi_json(ready, nodes))
    for each in value["devices"]:
        assert each["containerEdits"]["deviceNodes"]
    names = {each["name"] for each in value["devices"]}
    assert {str(d.address) for d in ready.devices if isinstance(d.iommu_group, int)} <= names


@given(hosts(), _files)
def test_any_host_gives_yaml(host: Snapshot, names: PciNames) -> None:
    yaml = pytest.importorskip("yaml")
    ready = all_ready(host)
    devices = yaml.safe_load(vmi_yaml(ready, names))["spec"]["domain"]["devices"]
    asked = [each["deviceName"] for key in ("gpus", "hostDevices") for each in devices[key]]
    offered = {r.name for r in resources(host, names)}
    own = {f"vfiohost/{d.ids.replace(':', '_')}" for d in ready.devices if d.vendor_id != 0x10DE}
    assert set(asked) <= offered | own
    given_out = len(ready.devices) - len(list(left_out(ready)))
    assert len(asked) == given_out + len(ready.mdevs) - len(list(nameless(ready.mdevs)))
    permitted = yaml.safe_load(kubevirt_yaml(ready, names))["spec"]["configuration"]
    lists = permitted["permittedHostDevices"].values()
    assert {each["resourceName"] for entries in lists for each in entries} == set(asked)
    wanted = {m.type_name for m in ready.mdevs if m.type_name is not None}
    mdevs = permitted["permittedHostDevices"].get("mediatedDevices", ())
    assert {each["mdevNameSelector"] for each in mdevs} == wanted


@given(hosts(), _files)
def test_resources_count_each_device_once(host: Snapshot, names: PciNames) -> None:
    found = resources(host, names)
    counted = [device for resource in found for device in resource.devices]
    assert len(set(counted)) == len(counted)
    assert {p.subject for p in collisions(found)} == {r.name for r in found if len(r.kinds) > 1}


def test_what_another_node_may_offer_by_the_name_is_told() -> None:
    names = PciNames.from_text(
        "10de  NVIDIA\n\t20b1  GA100 [A100 PCIe 40GB]\n\t20f1  GA100  [A100 PCIe 40GB]\n"
        "\t\t10de 1482  GA100 [A100 PCIe 40GB]\n\t20f2  [-]\n\t20f4  GA100 [A100 PCIe-40GB]\n"
        "8086  Intel\n\t20f3  GA100 [A100 PCIe 40GB]\n"
    )
    one = device("0000:01:00.0", "vfio-pci", ids="10de:20b1", group=1)
    (told,) = namesakes(resources(snapshot(one), names), names)
    assert told.subject == "nvidia.com/GA100_A100_PCIE_40GB"
    assert told.sentence.startswith("Not only 10de:20b1 has this resource name: 10de:20f1 would")
    for ids in ("10de:20f2", "10de:20f4", "10de:9999"):
        other = device("0000:02:00.0", "vfio-pci", ids=ids, group=2)
        assert list(namesakes(resources(snapshot(other), names), names)) == []


# ---- what only some hosts have -----------------------------------------------------------------


def test_with_an_iommufd_the_groups_own_nodes_are_given() -> None:
    host = snapshot(
        device("0000:01:00.0", "vfio-pci", group=1),
        device("0000:01:00.1", "vfio-pci", group=1, class_code=0x040300),
        device("0000:02:00.0", "vfio-pci", group=2),
    )
    cdevs = {f"0000:01:00.{n}": f"/dev/vfio/devices/vfio{n}" for n in range(2)}
    nodes = Nodes({1: "/dev/vfio/1", 2: "/dev/vfio/noiommu-2"}, cdevs, has_iommufd=True)
    value = json.loads(cdi_json(all_ready(host), nodes))
    paths = [[n["path"] for n in d["containerEdits"]["deviceNodes"]] for d in value["devices"]]
    assert paths == [["/dev/vfio/1", *cdevs.values()]] * 2 + [["/dev/vfio/noiommu-2"]]
    common = [n["path"] for n in value["containerEdits"]["deviceNodes"]]
    assert common == ["/dev/vfio/vfio", "/dev/iommu"]


def test_a_mediated_device_of_another_kind() -> None:
    kind = MdevType("vfio_ap-passthrough", None, 1, "vfio-ap", None)
    mdev = MediatedDevice("a-b", "matrix", kind.type_id, None, "vfio_ap_mdev", 1)
    parents = (MdevParent("matrix", "sys/devices/vfio_ap/matrix", (kind,), None, None),)
    ready = all_ready(snapshot(mdev=MdevBus(parents, (mdev,))))
    assert qemu_arguments(ready) == "-device vfio-ap,sysfsdev=/sys/bus/mdev/devices/a-b\n"
    assert "model='vfio-ap'" in libvirt_xml(ready)


def test_what_no_plugin_offers_is_told() -> None:
    ready = all_ready(snapshot(device("0000:01:00.0", "mlx5_vfio_pci", ids="15b3:101e", group=1)))
    assert [p.subject for p in left_out(ready)] == ["0000:01:00.0"]
    assert "permittedHostDevices: {}" in kubevirt_yaml(ready, PciNames(b""))


def test_other_vendors_devices_are_for_kubevirts_own_plugin() -> None:
    yaml = pytest.importorskip("yaml")
    nvme = device("0000:01:00.0", "vfio-pci", ids="144d:a80a", group=1, class_code=0x010802)
    gpu = device("0000:02:00.0", "vfio-pci", ids="1002:73a5", group=2, class_code=0x030000)
    ready = all_ready(snapshot(nvme, gpu))
    assert list(left_out(ready)) == []
    made = yaml.safe_load(kubevirt_yaml(ready, PciNames(b"")))["spec"]["configuration"]
    assert made["developerConfiguration"]["featureGates"] == ["GPU", "HostDevices"]
    assert made["permittedHostDevices"]["pciHostDevices"] == [
        {"pciVendorSelector": "144D:A80A", "resourceName": "vfiohost/144d_a80a"},
        {"pciVendorSelector": "1002:73A5", "resourceName": "vfiohost/1002_73a5"},
    ]
    asked = yaml.safe_load(vmi_yaml(ready, PciNames(b"")))["spec"]["domain"]["devices"]
    assert [each["deviceName"] for each in asked["gpus"]] == ["vfiohost/1002_73a5"]
    assert [each["deviceName"] for each in asked["hostDevices"]] == ["vfiohost/144d_a80a"]


def test_a_domain_of_more_than_16_bits() -> None:
    host = snapshot(
        device("0000:e1:00.0", "vfio-pci", group=1), device("10000:e1:00.0", "vfio-pci", group=2)
    )
    assert qemu_arguments(all_ready(host)) == (
        "-device vfio-pci,host=0000:e1:00.0\n"
        "-device vfio-pci,sysfsdev=/sys/bus/pci/devices/10000:e1:00.0\n"
    )
    assert "<address domain='0x10000' bus='0xe1'" in libvirt_xml(all_ready(host))
