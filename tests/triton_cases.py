"""Where tests of Triton's kernels run: interpreted on the CPU, in a process of their own, and on a GPU."""

import pytest
from test_chamfer import INTERPRETED

on_a_device = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(not INTERPRETED, reason="runs in the process that interprets")),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
