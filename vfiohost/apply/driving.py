"""Drive the steps of a plan: one after the other, or in lanes side by side."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from vfiohost.apply.lanes import lanes, related, stages
from vfiohost.errors import ApplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from vfiohost.apply.transaction import Call, Transaction
    from vfiohost.plan.types import StepResult
    from vfiohost.sysfs import Kernel, Sysfs

    Begun = Generator[Call, object, StepResult]


@attrs.frozen
class Driver:
    """Carries out all steps of a plan.

    Attributes:
        transaction: the plan.
        sysfs: the host.
        kernel: who answers the stores.
        cancel: asked before each step; ``True`` ends it.
        progress: called after each step.
    """

    transaction: Transaction
    sysfs: Sysfs
    kernel: Kernel
    cancel: Callable[[], bool]
    progress: Callable[[StepResult], object]

    def drive(self) -> None:
        """Carry out the plan up to its end or its first failure; then nothing is under way.

        Raises:
            PendingError: the kernel has not come back from a store. Whatever else happened, it
                comes first, for what the kernel still does must not be crossed.
            VfioHostError: as :meth:`Transaction.forward`; of several the first.
            KernelError: what devices have in common could not be seen.
        """
        steps = self.transaction.plan.steps
        for stage in stages(steps):
            split = lanes(steps, stage, partial(related, self.sysfs))
            if len(split) > 1:
                from vfiohost.apply.side_by_side import drive

                drive(self, split)
                continue
            for index in split[0]:
                self.progress(_carry_out(self.begin(index)))

    def begin(self, index: int) -> Begun:
        """The next step, unless it is time to stop.

        Raises:
            ApplyError: interrupted.
        """
        if self.cancel():
            raise ApplyError("Interrupted.")
        return self.transaction.forward(index)


def _carry_out(step: Begun) -> StepResult:
    try:
        call = next(step)
        while True:
            try:
                value = call()
            except BaseException as error:  # noqa: BLE001 - the step judges it
                call = step.throw(error)
            else:
                call = step.send(value)
    except StopIteration as end:
        result: StepResult = end.value
    return result
