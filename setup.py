"""The part of the build that pyproject.toml cannot say.

The C core is built once for all CPythons (abi3), and the recorded hosts, which lie at the top of
the source tree for people to read, travel inside the package.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vfiohost", "vfiohost.*"]), "vfiohost._fixtures"],
    package_dir={"vfiohost._fixtures": "fixtures/sysfs"},
    cffi_modules=["csrc/build_native.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
