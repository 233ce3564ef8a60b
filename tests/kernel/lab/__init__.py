"""A virtual machine with a real kernel, an IOMMU and synthetic GPUs, to test vfiohost in.

From below to above:

    errors      what can go wrong, in two kinds: the machine lacks something, or the lab broke
    cache       folders that are built once and never seen half-built
    packages    Debian packages, downloaded and unpacked but never installed
    kernels     the kernels to boot, with everything that modules are built against
    images      a kernel with the lab's modules and its initramfs
    layout      the PCI functions of the machine, and the QEMU options that make them
    vm          a booted machine: calls of Python functions in it, and what came of them
    agent       what answers the calls inside; guest: functions that are called there

``python -m tests.kernel.lab`` prepares images and runs single commands.
"""
