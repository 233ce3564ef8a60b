"""The part of the build that pyproject.toml cannot say: the C core, built once for all CPythons."""

from setuptools import setup

setup(
    cffi_modules=["csrc/build_native.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
