"""The chamfer's GPU kernels: interpreted on the CPU, compiled for sm_90, and run on a GPU where there is one.

Triton decides when it is imported whether it interprets. So the tests of `INTERPRETED_FILES` that know the backend
"triton" run a second time, in a process of their own with TRITON_INTERPRET=1, where the tests of this file that need a
device run as well.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chamfer import INTERPRETED, by_definition, clouds, gradients
from test_deformed import INDEX, a_case
from test_nearest import KINDS
from torch._subclasses.fake_tensor import FakeTensorMode
from triton_cases import on_a_device

from jr_dist.errors import InputError
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import (
    chamfer,
    chamfer_matrix,
    choose_backend,
    nearest_neighbours,
    one_sided,
    triton_kernels,
)
from jr_dist.geometry.deformed import deformed_losses
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.symmetry import mirror, symmetry_loss

HERE = Path(__file__).parent
INTERPRETED_FILES = (
    "test_chamfer.py",
    "test_symmetry.py",
    "test_deformed.py",
    "test_matched_sums.py",
    "test_ido_triton.py",
    "test_chamfer_triton.py",
    "test_least_chamfer_triton.py",
)
#: slow when interpreted, and told by others: many pairs, many examples, larger sizes
LEFT_OUT = "matrix_equals_a_loop or sizes4 or 200 or 700 or equals_its_definition"

pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")
compiled = pytest.mark.skipif(INTERPRETED, reason="interpreted kernels can't be compiled")


@compiled
@pytest.mark.slow
def test_interpreted_kernels_pass_the_tests_of_the_chamfer():
    selected = f"(triton or cpu) and not ({LEFT_OUT})"
    files = [str(HERE / name) for name in INTERPRETED_FILES]
    quiet = ["-W", "ignore:overflow encountered:RuntimeWarning", "-W", "ignore:invalid value:RuntimeWarning"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selected, *quiet, *files],
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed.group(1)) >= 40, "a selection that selects nothing passes as well"


# ---- what they answer --------------------------------------------------------------------------


@on_a_device
@pytest.mark.parametrize("sizes", [(1, 1), (8, 256), (257, 9), (300, 130)])
def test_neighbours_are_the_first_of_equals(device, sizes):
    """On a small grid of whole numbers every distance is exact and most occur several times."""
    rng = np.random.default_rng(sizes)
    x, y = (torch.from_numpy(rng.integers(-2, 3, (3, size, 3))).float() for size in sizes)
    squared = (x[:, :, None] - y[:, None]).square().sum(-1).numpy()
    distances, indices = nearest_neighbours(x.to(device), y.to(device), backend="triton")
    np.testing.assert_array_equal(distances.cpu(), squared.min(2))
    np.testing.assert_array_equal(indices.cpu(), squared.argmin(2))
    back = nearest_neighbours(y.to(device), x.to(device), backend="triton")
    looks = triton_kernels()._looks(x.to(device), y.to(device), torch.arange(3, device=device), two_sided=True)
    for look, expected in zip(looks, ((distances, indices), back), strict=True):
        assert torch.equal(look.distances, expected[0]) and torch.equal(look.indices.long(), expected[1])


@on_a_device
@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(1, 40), st.integers(1, 40), st.floats(0, 50),
    st.integers(0, 2**31),
)  # fmt: skip
def test_values_and_gradients_far_from_the_origin(device, kind_x, kind_y, num_x, num_y, away, seed):
    x, y = clouds(2, num_x, seed, kind_x) + away, clouds(2, num_y, seed + 1, kind_y) + away
    expected = by_definition(x, y)
    torch.testing.assert_close(
        chamfer(x.to(device), y.to(device), backend="triton").double().cpu(), expected, rtol=1e-6, atol=1e-30
    )
    slopes = gradients(
        lambda a, b: chamfer(a, b, backend="triton"), x.to(device), y.to(device), torch.ones(2).to(device)
    )
    for ours, true in zip(slopes, gradient_by_neighbours(x.to(device), y.to(device)), strict=True):
        assert (ours.cpu() - true).norm() <= 1e-5 * true.norm() + 1e-30


def gradient_by_neighbours(x, y):
    """Of the chamfer in float64, to both clouds, with the neighbours that the kernels name."""
    there, back = (nearest_neighbours(a, b, backend="triton")[1].cpu() for a, b in ((x, y), (y, x)))
    x, y = x.double().cpu(), y.double().cpu()
    slopes = [torch.zeros_like(x), torch.zeros_like(y)]
    for (queries, cloud), indices, (own, other) in (((x, y), there, (0, 1)), ((y, x), back, (1, 0))):
        for m in range(len(x)):
            pull = 2 / queries.shape[1] * (queries[m] - cloud[m, indices[m]])
            slopes[own][m] += pull
            slopes[other][m].index_add_(0, indices[m], -pull)
    return slopes


def on(device: str, geometry: PartGeometry, *tensors: torch.Tensor) -> Any:
    return geometry.to(device), *(tensor.to(device) for tensor in tensors)


@on_a_device
def test_every_answer_has_the_same_bits_twice(device):
    geometry, centre, half_extent, targets = on(device, *a_case(270, 130))
    x, y = geometry.points, targets[INDEX]

    def answers() -> Any:
        wanted = centre.clone().requires_grad_()
        losses: Any = deformed_losses(
            geometry, wanted, half_extent, targets, INDEX.to(device), origin=0 * centre[:, 0], backend="triton"
        )
        (to_boxes,) = torch.autograd.grad(sum(losses[1:]).sum(), wanted)
        to_points = gradients(lambda a, b: chamfer(a, b, backend="triton"), x, y, torch.ones(3, device=device))
        return *losses, to_boxes, *to_points

    assert all(torch.equal(once, again) for once, again in zip(answers(), answers(), strict=True))


@on_a_device
def test_a_pair_has_the_same_bits_in_any_company(device):
    """Sums of torch's are laid out by the number of rows; the oracle compares pairs in rounds of other sizes."""
    count, num_points = (12, 130) if device == "cpu" else (300, 2048)
    x, y = clouds(count, num_points, 1).to(device), clouds(count, num_points + 9, 2).to(device)
    together = chamfer(x, y, backend="triton")
    for few in (1, 3, 10):
        assert torch.equal(chamfer(x[:few], y[:few], backend="triton"), together[:few])


@on_a_device
def test_points_move_as_torch_moves_them(device):
    geometry, centre, half_extent, targets = on(device, *a_case(100, 30))
    same = deformed_losses(
        geometry, geometry.centre, geometry.half_extent, targets, INDEX.to(device), backend="triton"
    ).points
    assert torch.equal(same, geometry.points), "the same boxes, the same bits"
    found = deformed_losses(geometry, centre, half_extent, targets, INDEX.to(device), backend="triton").points
    part = geometry.part_index.unsqueeze(-1).expand(-1, -1, 3)
    shift, growth = centre - geometry.centre, half_extent - geometry.half_extent
    assert torch.equal(found, geometry.points + shift.gather(1, part) + growth.gather(1, part) * geometry.canonical)


@on_a_device
def test_matrix_and_strided_clouds(device):
    x, y = clouds(3, 80, 0).to(device), clouds(2, 30, 1).to(device)
    loop = torch.stack([torch.cat([chamfer(a[None], b[None], backend="triton") for b in y]) for a in x])
    assert torch.equal(chamfer_matrix(x, y, backend="triton"), loop)
    apart = y.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(chamfer(x[::2, ::3], apart, backend="triton"), chamfer(x[::2, ::3].clone(), y, backend="triton"))


@pytest.mark.gpu
def test_what_is_not_finite_shows_on_a_gpu():
    for bad in (float("nan"), float("inf")):
        x, y = clouds(3, 300, 0).cuda(), clouds(3, 200, 1).cuda()
        y[1, 3, 0] = bad
        for function in (chamfer, one_sided):
            for pair in ((x, y), (y, x)):
                assert function(*pair).isfinite().tolist() == [True, False, True]
        assert symmetry_loss(y).isfinite().tolist() == [True, False, True]


@pytest.mark.gpu
def test_a_gpu_answers_as_the_cpu_does():
    geometry, centre, half_extent, targets = a_case(700, 500)
    origin = torch.full((3, 3), 0.05)
    here = deformed_losses(geometry, centre, half_extent, targets, INDEX, origin=origin)
    away = on("cuda", geometry, centre, half_extent, targets, INDEX)
    there = deformed_losses(*away, origin=origin.cuda())
    assert torch.equal(there.points, deform(*away[:3]))
    assert there.symmetry is not None and here.symmetry is not None
    torch.testing.assert_close(there.fitting.cpu(), here.fitting, rtol=1e-6, atol=0)
    torch.testing.assert_close(there.symmetry.cpu(), here.symmetry, rtol=1e-6, atol=0)
    x = clouds(160, 2048, 0).cuda()
    torch.testing.assert_close(symmetry_loss(x), chamfer(x, mirror(x)), rtol=1e-6, atol=0)


# ---- which tensors they take -------------------------------------------------------------------


def test_a_gpu_without_triton_is_told(monkeypatch):
    with FakeTensorMode():  # says that it is on a GPU
        x = torch.empty(2, 10, 3, device="cuda:0")
    assert choose_backend("auto", x) == "triton"
    assert choose_backend("auto", x.double()) == "torch"
    monkeypatch.setattr("jr_dist.geometry.chamfer.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"float32 on cuda:0 needs Triton.*install"):
        choose_backend("auto", x)


@compiled
def test_tensors_on_the_cpu_are_refused():
    x = clouds(2, 10, 0)
    with pytest.raises(InputError, match=r"triton takes float32 on a GPU, got torch.float32 on cpu"):
        chamfer(x, x, backend="triton")


# ---- what they compile to ----------------------------------------------------------------------


@compiled
@pytest.mark.slow
def test_they_compile_for_sm_90_without_spills(tmp_path):
    report = tmp_path / "resources.json"
    script = HERE.parent / "benchmarks" / "gpu_resources.py"
    subprocess.run(
        [sys.executable, "-W", "ignore", script, "--json", report],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
    )
    found = {
        record["name"].removeprefix("gpu_resources."): record["value"] for record in json.loads(report.read_text())
    }
    spilled = {name: value for name, value in found.items() if name.endswith("spilled")}
    assert len(spilled) >= 12 and not any(spilled.values()), "each of these would wait for memory"
    for name, value in found.items():
        what = name.split(".")[1]
        if what == "registers":
            most = 255 if name.startswith("bounded_step") else 168  # there are few programs of that one
            assert value <= most, f"{name}: fewer than 12 warps on a multiprocessor"
        elif what == "arithmetic":
            assert value == 6, f"{name}: a squared distance is three differences, a product and two products added"
        elif what == "instructions":  # 8 and 7 are the least, with a comparison a direction
            assert value <= (8 if "one_sided" in name else 10), name
