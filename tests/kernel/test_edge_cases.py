"""The numbered edge cases, on real kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kernel.cases import CASES
from tests.kernel.scenario import RealKernel, run

if TYPE_CHECKING:
    from tests.kernel.cases.terms import Case
    from tests.kernel.lab.vm import Machine


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_edge_case(lab: Machine, case: Case) -> None:
    run(case.steps, RealKernel(lab))
