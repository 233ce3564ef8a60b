from __future__ import annotations

import errno
import os
import pickle

import pytest

from vfiohost.errors import (
    AmbiguousError,
    ApplyError,
    KernelError,
    LockBusyError,
    NotFoundError,
    ParseError,
    PendingError,
    PlanRefused,
    Refusal,
    RollbackError,
    StalePlanError,
    StoreTimeoutError,
    UnsupportedError,
    VfioHostError,
    kernel_meaning,
)
from vfiohost.plan.types import Plan

REFUSALS = (
    Refusal("bridge", "0000:00:01.0", "It is a bridge.", "Leave it out."),
    Refusal("boot-vga", "0000:01:00.0", "It is the display.", "Permit it with --allow display."),
)
ERRORS = [
    ParseError("65:00", "an address", where="DEV", hint="Did you mean 65:00.0?"),
    AmbiguousError("class:gpu", ["0000:65:00.0", "0000:b4:00.0"]),
    NotFoundError("PCI device", "0000:65:00.1", near=["0000:65:00.0"], detail="One more thing."),
    PlanRefused(REFUSALS, Plan("bind", ("0000:01:00.0",), ())),
    KernelError("write", errno.ENODEV, "/sys/bus/pci/drivers/vfio-pci/bind", "0000:65:00.0"),
    ApplyError("It failed.", step=1, report=2, cause=ValueError("why")),
    StalePlanError("It changed."),
    PendingError("It waits."),
    RollbackError("It is half-way."),
    LockBusyError("/run/vfiohost/lock", "pid 4242"),
    LockBusyError("/run/vfiohost/lock", "pid 4242", has_ended=True),
    UnsupportedError("It cannot."),
    StoreTimeoutError("/sys/x", "1", 4242, 20.0),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_errors_survive_pickling(error: VfioHostError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    plain = {k: v for k, v in vars(error).items() if not isinstance(v, BaseException)}
    assert {k: vars(copy)[k] for k in plain} == plain


def test_an_attribute_that_was_set_later_survives_too() -> None:
    error = RollbackError("It is half-way.")
    error.commands = ("echo 1 > /sys/x",)
    assert pickle.loads(pickle.dumps(error)).commands == error.commands


def test_each_error_is_caught_as_what_it_is_in_python() -> None:
    assert issubclass(ParseError, ValueError)
    assert issubclass(NotFoundError, LookupError)
    assert issubclass(AmbiguousError, LookupError)
    assert issubclass(KernelError, OSError)
    assert all(issubclass(e, ApplyError) for e in (StalePlanError, PendingError, RollbackError))
    assert all(isinstance(e, VfioHostError) for e in ERRORS)


def test_messages_name_what_was_given_and_what_was_meant() -> None:
    assert str(ERRORS[0]) == "DEV: '65:00' is not an address. Did you mean 65:00.0?"
    assert str(ERRORS[1]) == (
        "'class:gpu' hits 2 things where one is needed: 0000:65:00.0, 0000:b4:00.0."
    )
    assert str(ERRORS[2]) == (
        "There is no PCI device '0000:65:00.1' on this host. Did you mean 0000:65:00.0? "
        "One more thing."
    )
    assert str(ERRORS[3]) == (
        "It is a bridge. Leave it out. It is the display. Permit it with --allow display."
    )


def test_a_kernel_error_says_what_its_errno_means_here() -> None:
    error = KernelError("write", errno.ENODEV, "/sys/bus/pci/drivers/vfio-pci/bind", "0000:65:00.0")
    assert (error.errno, error.filename, error.code) == (errno.ENODEV, error.path, "ENODEV")
    assert str(error) == (
        "Cannot write '0000:65:00.0' to /sys/bus/pci/drivers/vfio-pci/bind: "
        f"{os.strerror(errno.ENODEV)} (ENODEV). The driver does not match this device (no id of it "
        "and no driver_override names it), or there is no such device."
    )


def test_the_same_errno_means_different_things_for_different_files() -> None:
    numvfs = kernel_meaning("sriov_numvfs", "write", errno.ENOENT)
    bind = kernel_meaning("bind", "open", errno.ENOENT)
    assert numvfs is not None
    assert "cannot make virtual functions" in numvfs
    assert bind is not None
    assert "not loaded" in bind
    assert kernel_meaning("whatever", "open", errno.EACCES) == "This needs root."
    assert kernel_meaning("whatever", "read", errno.ENOMSG) is None
