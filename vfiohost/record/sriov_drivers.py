"""Drivers that make virtual functions. Sysfs does not tell which do, only a store would.

Those of Linux 6.12 whose ``struct pci_driver`` has a ``sriov_configure``, by the names that they
register. ``vfio-pci`` is none of them: whether it does is a parameter's decision.
"""

from __future__ import annotations

SRIOV_DRIVERS = frozenset(
    {
        "420xx",  # crypto/intel/qat, as the next three that begin so
        "4xxx",
        "CNN55XX",  # crypto/cavium/nitrox
        "LiquidIO",  # net/ethernet/cavium/liquidio
        "be2net",
        "bnx2x",
        "bnxt_en",
        "c3xxx",
        "c6xx",
        "cxgb4",
        "dfl-pci",  # fpga
        "dh895xcc",
        "ena",
        "fm10k",
        "fsl_enetc",
        "funeth",
        "genwqe",  # misc
        "hinic",
        "hisi_hpre",  # crypto/hisilicon
        "hisi_sec2",
        "hisi_zip",
        "hns3",
        "i40e",
        "ice",
        "idpf",
        "igb",
        "ionic",
        "ixgbe",
        "mlx5_core",
        "mrvl_cn10k_dpi",  # misc
        "nfp",
        "nvme",
        "octep_vdpa",  # vdpa/octeon_ep
        "octeon_ep",
        "octeontx-cpt",  # crypto/marvell
        "pci-endpoint-test",  # misc
        "pci-pf-stub",
        "pds_core",
        "qede",
        "qlcnic",
        "rvu_cptpf",  # crypto/marvell
        "rvu_nicpf",  # net/ethernet/marvell/octeontx2
        "sfc",
        "sfc_ef100",
        "sfc_siena",
        "virtio-pci",
        "xe",  # gpu/drm
    }
)
