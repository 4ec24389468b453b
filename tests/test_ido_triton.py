"""IDO on a GPU: its kernels interpreted on the CPU give what the CPU gives, and its loop never waits for the device.

test_chamfer_triton.py runs this file a second time, in a process that interprets Triton's kernels. There a kernel takes
milliseconds a program, so problems are small.
"""

from typing import Any

import numpy as np
import pytest
import torch
from geometry_cases import box_source, part_geometry, random_delta
from test_chamfer import INTERPRETED
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton_cases import on_a_device

from jr_dist.geometry.boxes import deform
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import part_parameters
from jr_dist.models import ido
from jr_dist.models.ido import optimise_inner, optimise_inner_sgd
from jr_dist.models.inner_problem import InnerProblem, bounded_step

pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")
compiled = pytest.mark.skipif(INTERPRETED, reason="interpreted, it would be run by the interpreter")
#: ways to call optimise_inner, some with bounds that bind
WAYS: dict[str, dict[str, Any]] = {
    "bounded": {"minimum_scale": 0.6},
    "partial": {"one_sided": True, "prior_weight": 0.02},
    "unconnected": {"connectivity": False},
}


def pairs(seed: int, count: int, num_points: int = 50, pad_to: int = 4) -> tuple[PartGeometry, torch.Tensor]:
    """Sources of 2 parts and more, some flat, and other sources deformed as their targets."""
    rng = np.random.default_rng(seed)
    sources = [box_source(int(rng.integers(2, pad_to + 1)), rng, num_points=80, thin=m % 3 == 0) for m in range(count)]
    geometry = part_geometry(sources, pad_to=pad_to, num_points=num_points)
    other = part_geometry(sources, pad_to=pad_to, num_points=10**6)
    targets = deform(other, *part_parameters(other, random_delta(other, rng)))[:, -num_points + 9 :]
    return geometry, targets.roll(1, dims=0).contiguous()


def a_problem(rng: np.random.Generator, count: int, num_parts: int, width: int, tied: bool) -> tuple[Any, ...]:
    """Random arguments of `bounded_step`: half of the bounds bind; `tied` half-extents are one another's multiples."""

    def random(*shape: int) -> torch.Tensor:
        return torch.tensor(rng.normal(size=(count, 3, *shape)))

    w, q = random(num_parts).square() + 0.1, random(num_parts) * 0.3
    nothing = torch.zeros(count, dtype=torch.float64)
    problem = InnerProblem(nothing, nothing, random(2 * num_parts), w, w * q, w * (q**2 + 0.2))
    basis = random(2 * num_parts, width)
    basis[::2, ..., -1] = 0  # less wide than others of the batch
    if tied:
        basis[..., num_parts + 1, :] = basis[..., num_parts, :]
        basis[..., -1, :] = 2 * basis[..., num_parts, :]
    return problem, basis, random(num_parts).square() + 0.05, torch.full((count, 3, num_parts), 0.04).double()


def to(device: str, problem: InnerProblem, *tensors: torch.Tensor) -> tuple[Any, ...]:
    fields = (value.to(device) for value in vars(problem).values())
    return InnerProblem(*fields), *(tensor.to(device) for tensor in tensors)


@on_a_device
@pytest.mark.parametrize(("num_parts", "width", "tied"), [(1, 1, False), (3, 4, False), (3, 4, True), (5, 7, False)])
def test_the_kernel_takes_the_step_of_the_cpu(device, num_parts, width, tied):
    from jr_dist.models import step_triton

    rng = np.random.default_rng(num_parts + tied)
    problem, basis, extent, bound = a_problem(rng, 20, num_parts, width, tied)
    expected = bounded_step(problem, basis, extent, bound, relaxation=2.2)
    found = step_triton.bounded_step(*to(device, problem, basis, extent, bound), relaxation=2.2).cpu()
    free = bounded_step(problem, basis, extent, torch.full_like(bound, -torch.inf), relaxation=2.2)
    blocked = (free != expected).any(-1)
    assert blocked.double().mean() > 0.1, "bounds that bind are what is compared"
    size = expected.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(found / size, expected / size, rtol=0, atol=1e-6 if tied else 1e-9)


@on_a_device
@pytest.mark.parametrize("way", WAYS)
def test_the_loop_ends_where_that_of_the_cpu_ends(device, way):
    geometry, targets = pairs(len(way), 4)
    how = dict(WAYS[way])
    if "prior_weight" in how:
        how["prior"] = geometry.centre, geometry.half_extent
    index = torch.arange(len(targets))
    here = optimise_inner(geometry, targets, index, iterations=3, backend="numba", **how)
    if "prior" in how:
        how["prior"] = tuple(part.to(device) for part in how["prior"])
    away = geometry.to(device), targets.to(device), index.to(device)
    there = optimise_inner(*away, iterations=3, backend="triton", **how)
    if way == "bounded":
        assert (here.half_extent < 0.605 * geometry.half_extent).any(), "bounds that bind are what is compared"
    torch.testing.assert_close(there.loss.cpu(), here.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(there.objective.cpu(), here.objective, rtol=1e-6, atol=0)
    torch.testing.assert_close(there.centre.cpu(), here.centre, rtol=0, atol=1e-6)
    torch.testing.assert_close(there.half_extent.cpu(), here.half_extent, rtol=0, atol=1e-6)


# ---- nothing waits for the device --------------------------------------------------------------


class NothingWaits(TorchDispatchMode):
    """Refuses what a CUDA graph can't capture: copies to and from the host, and solvers that allocate on their own.

    Whatever needs a value or makes a shape of one (item, nonzero, an index of booleans) fails on fake tensors anyway.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = str(func)
        assert not any(word in name for word in ("linalg", "cholesky", "lu_", "triangular")), name
        devices = {leaf.device.type for leaf in tree_leaves((args, out)) if isinstance(leaf, torch.Tensor)}
        assert devices <= {"cuda"}, f"{name} goes between {devices}"
        return out


def run_on_paper(monkeypatch: pytest.MonkeyPatch, optimise: Any = optimise_inner, **how: Any) -> list[int]:
    """`optimise` on tensors that are on a GPU by name alone; how many iterations each CUDA graph was to do."""
    from jr_dist.geometry import chamfer_triton
    from jr_dist.models import step_triton

    launched: list[str] = []
    graphs: list[int] = []

    def replayed(step, state, times):
        graphs.append(times)
        with NothingWaits():
            for _ in range(times):
                after = step(*state)
                assert [(a.shape, a.dtype) for a in after] == [(b.shape, b.dtype) for b in state], "shapes stay"
                state = after
        return state

    for module in (chamfer_triton, step_triton):
        monkeypatch.setattr(module, "launch", lambda kernel, *rest, **forms: launched.append(kernel.__name__))
    monkeypatch.setattr(ido, "replayed", replayed)
    monkeypatch.setattr(ido, "null_space_basis", lambda projection: projection[..., :5])
    geometry, targets = pairs(0, 3)
    with FakeTensorMode():
        away = PartGeometry(**{name: paper(value) for name, value in vars(geometry).items()})
        if how.pop("prior", False):
            how["prior"] = away.centre, away.half_extent
        optimise(away, paper(targets), paper(torch.arange(3)), iterations=3, **how)
    assert launched.count("search") == 4 and launched.count("match_parts") == (4 if "one_sided" in how else 8)
    assert launched.count("bounded_step") == (3 if optimise is optimise_inner else 0)
    return graphs


def paper(tensor: torch.Tensor) -> torch.Tensor:
    """What stands for it on a GPU, within a FakeTensorMode."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda:0")


@compiled
@pytest.mark.parametrize("how", [{}, {"one_sided": True, "prior": True, "prior_weight": 0.02}, {"connectivity": False}])
def test_an_iteration_never_waits_for_the_gpu(monkeypatch, how):
    for optimise in (optimise_inner, optimise_inner_sgd):
        assert run_on_paper(monkeypatch, optimise, **how) == [3], "the whole loop is one graph"
    assert run_on_paper(monkeypatch, watch=lambda _: None, **how) == [], "who watches gets none"


@compiled
@pytest.mark.parametrize("waits", ["item", "nonzero", "mask", "solver", "host", "scalar", "number"])
def test_what_waits_would_be_noticed(monkeypatch, waits):
    errors = (DataDependentOutputException, DynamicOutputShapeException, AssertionError)
    waiting = {
        "item": lambda step: step * step.amax().item(),
        "nonzero": lambda step: step[(step[..., 0] > 0).nonzero()[:, 0]],
        "mask": lambda step: step[step > 0],
        "solver": lambda step: torch.linalg.cholesky_ex(step[..., :3]).L,
        "host": lambda step: step.cpu(),
        "scalar": lambda step: step * torch.tensor(2.0).to(step.device),
        "number": lambda step: step * torch.tensor(2.0, device=step.device),
    }
    from jr_dist.models import step_triton

    ours = step_triton.bounded_step
    monkeypatch.setattr(step_triton, "bounded_step", lambda *a, **k: waiting[waits](ours(*a, **k)))
    with pytest.raises(errors):
        run_on_paper(monkeypatch)


# ---- on a GPU ----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_a_graph_gives_the_bits_of_the_loop_without_one(way):
    geometry, targets = pairs(7, 60, num_points=300, pad_to=8)
    away = geometry.to("cuda"), targets.cuda(), torch.arange(60).cuda()
    how = dict(WAYS[way])
    if "prior_weight" in how:
        how["prior"] = away[0].centre, away[0].half_extent
    for iterations in (0, 1, 2, 12):
        seen = []
        by_hand = optimise_inner(*away, iterations=iterations, watch=seen.append, **how)
        graph = optimise_inner(*away, iterations=iterations, **how)
        again = optimise_inner(*away, iterations=iterations, **how)
        assert len(seen) == iterations + 1, "who watches gets no graph"
        for name in ("centre", "half_extent", "loss", "objective"):
            assert torch.equal(getattr(graph, name), getattr(by_hand, name)), name
            assert torch.equal(getattr(graph, name), getattr(again, name)), name


@pytest.mark.gpu
def test_graphs_hold_no_memory_of_their_own():
    geometry, targets = pairs(8, 20, num_points=300, pad_to=8)
    away = geometry.to("cuda"), targets.cuda(), torch.arange(20).cuda()
    taken = []
    for _ in range(6):
        optimise_inner(*away)
        taken.append(torch.cuda.memory_reserved())
    assert taken[-1] == taken[1], "every graph is captured in the memory of the last"
