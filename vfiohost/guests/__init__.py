"""What guests can be given, in the words of the tools that give it to them. Pure.

``resources`` has the names of NVIDIA's sandbox device plugin, ``ready`` chooses what is ready, and
one module for each tool makes its text: ``kubevirt``, ``libvirt``, ``qemu``, ``cdi``.
"""
