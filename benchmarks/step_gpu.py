"""A joint training step on a GPU without encoders (B = 16, K = 10, 2048 points) against the published formulation.

    python benchmarks/step_gpu.py [--quick] [--csv FILE] [--json FILE]

    step_gpu.without_encoders_vs_two_pass   one update of the deformation module and one of the retrieval module

Both sides start from the same weights, codes and sources (100 of 4 to 16 parts), have a table in the place of encoders,
wait for the GPU at the end of each update and take turns. The published formulation is that of published.py, moved to
the GPU: dense matrices, the decoder called once a pair, a chamfer in two passes, by the Triton kernel of chamfer_gpu.py
in its fastest shape. In its favour its matrices are padded once and stay on the GPU.

It needs torch, numpy, numba and Triton alone, so ours is the step of jr_dist/train/step.py from the codes on, without
the bank, whose tables stand here as parameters. Without a GPU it says so and what was not measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from chamfer_gpu import SHAPES, Nearest, gradient_to, no_gpu, triton_pass
from harness import compared, finish, parser, random_boxes, sample
from published_source import ALPHA, dense_source, plain_decoder
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from jr_dist.geometry.deformed import deformed_losses
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.geometry.projection import axis_projections, part_parameters
from jr_dist.models.retrieval import retrieval_weight, soft_retrieval, squared_distance
from jr_dist.models.structure_aware import StructureAwareDeformation
from jr_dist.train.losses import deformation_loss, embedding_loss, fit_probability_spread, spread_of_fit

NAME = "step_gpu.without_encoders_vs_two_pass"
NUM_SOURCES, NUM_PARTS, NUM_CANDIDATES = 100, 16, 10
CODE, PART_CODE, SIGMA0 = 256, 32, 10.0


@dataclass(frozen=True)
class Problem:
    """What both sides work on."""

    geometry: PartGeometry  # of the sources
    num_parts: list[int]
    targets: Tensor  # [B, N, 3]
    rows: np.ndarray  # [B, K]: a target's candidates
    tables: dict[str, Tensor]  # codes of the sources, and what stands for the encoders' answers
    module: StructureAwareDeformation


def a_problem(num_targets: int, num_points: int, device: str) -> Problem:
    """Boxes with a joint between each part and the next, and random codes."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    sources = [_a_source(num_points, rng) for _ in range(NUM_SOURCES)]
    columns = zip(*(columns for _, columns in sources), strict=True)
    tables = {
        name: torch.randn(*shape, generator=generator).to(device)
        for name, shape in {
            "global_code": (NUM_SOURCES, CODE),
            "part_code": (NUM_SOURCES, NUM_PARTS, PART_CODE),
            "retrieval_weight": (NUM_SOURCES, CODE),
            "source_embedding": (NUM_SOURCES, CODE),
            "target_code": (num_targets, CODE),
            "target_embedding": (num_targets, CODE),
        }.items()
    }
    return Problem(
        PartGeometry(*(torch.stack(column) for column in columns)).to(device),
        [count for count, _ in sources],
        torch.from_numpy(np.stack([sample(random_boxes(rng), num_points, rng)[0] for _ in range(num_targets)])).to(
            device
        ),
        np.stack([rng.choice(NUM_SOURCES, NUM_CANDIDATES, replace=False) for _ in range(num_targets)]),
        tables,
        StructureAwareDeformation(CODE, CODE, PART_CODE).to(device),
    )


def _a_source(num_points: int, rng: np.random.Generator) -> tuple[int, tuple[Tensor, ...]]:
    boxes = random_boxes(rng)
    count = len(boxes.centre)
    points, part = sample(boxes, num_points, rng)
    neighbours = np.stack([np.arange(count - 1), np.arange(1, count)], 1)
    places = boxes.centre[neighbours].mean(1, keepdims=True)
    joints = (places - boxes.centre[neighbours]) / boxes.half_extent[neighbours]
    centre, half_extent = np.zeros((NUM_PARTS, 3)), np.ones((NUM_PARTS, 3))
    centre[:count], half_extent[:count] = boxes.centre, boxes.half_extent
    columns = (
        points,
        (points - boxes.centre[part]) / boxes.half_extent[part],
        part.astype(np.int64),
        centre,
        half_extent,
        np.arange(NUM_PARTS) < count,
        axis_projections(neighbours, joints, count, pad_to=NUM_PARTS),
    )
    return count, tuple(
        torch.from_numpy(column.astype(np.float32) if column.dtype == np.float64 else column) for column in columns
    )


def _optimiser(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4)


def _update(optimiser: torch.optim.Optimizer, loss: Tensor) -> float:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


class OurStep:
    """Ours: sums of codes, parts gathered, both directions in one pass, deformation and its gradient fused in."""

    def __init__(self, problem: Problem) -> None:
        self.problem, device = problem, problem.targets.device
        self.module = deepcopy(problem.module)
        self.tables = {name: nn.Parameter(table.clone()) for name, table in problem.tables.items()}
        learned = [self.tables[name] for name in ("global_code", "part_code", "target_code")]
        self.of_deformation = _optimiser([*self.module.parameters(), *learned])
        learned = [self.tables[name] for name in ("retrieval_weight", "source_embedding", "target_embedding")]
        self.of_retrieval = _optimiser(learned)
        self.source_index = torch.from_numpy(problem.rows.reshape(-1)).to(device)
        self.target_index = torch.arange(len(problem.rows), device=device).repeat_interleave(NUM_CANDIDATES)
        self.origin = torch.zeros(problem.rows.size, 3, device=device)
        self.weights = torch.full(problem.rows.shape, 1 / NUM_CANDIDATES, device=device)

    def deformation(self) -> float:
        """Eq. 4 and the symmetry loss."""
        fitting, symmetry = self._losses(self.origin)
        assert symmetry is not None
        return _update(self.of_deformation, deformation_loss(fitting, self.weights) + symmetry.mean())

    def retrieval(self) -> float:
        """Eq. 2 on the same candidates."""
        with torch.no_grad():
            fitting, _ = self._losses(None)
        weight = retrieval_weight(self.tables["retrieval_weight"][self.source_index])
        source = self.tables["source_embedding"][self.source_index]
        target = self.tables["target_embedding"][self.target_index]
        probability = soft_retrieval(squared_distance(target, source, weight).view(fitting.shape), SIGMA0)
        wanted = fit_probability_spread(fitting, 1.0, spread_of_fit(fitting))
        return _update(self.of_retrieval, embedding_loss(probability, wanted))

    def _losses(self, origin: Tensor | None) -> tuple[Tensor, Tensor | None]:
        codes = (self.tables[name] for name in ("global_code", "part_code", "target_code"))
        delta = self.module(*codes, self.source_index, self.target_index)
        sources = self.problem.geometry.take(self.source_index)
        boxes = part_parameters(sources, delta, alpha=ALPHA)
        losses = deformed_losses(sources, *boxes, self.problem.targets, self.target_index, origin=origin)
        return losses.fitting.view(self.problem.rows.shape), losses.symmetry


class TwoPasses(torch.autograd.Function):
    """The chamfer [M] of clouds x and y [M, N, 3] in two passes, and its gradient to both."""

    @staticmethod
    def forward(ctx, x, y, nearest):
        there, at_y = nearest(x, y)
        back, at_x = nearest(y, x)
        ctx.save_for_backward(x, y, at_y, at_x)
        return there.mean(1) + back.mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, y, at_y, at_x = ctx.saved_tensors
        scale = grad[:, None, None]
        to_x = gradient_to(x, y, at_y, at_x) * scale if ctx.needs_input_grad[0] else None
        to_y = gradient_to(y, x, at_x, at_y) * scale if ctx.needs_input_grad[1] else None
        return to_x, to_y, None


class PublishedStep:
    """Theirs, as published.py describes it, on the GPU."""

    def __init__(self, problem: Problem, nearest: Nearest) -> None:
        self.problem, self.nearest, device = problem, nearest, problem.targets.device
        geometry = problem.geometry.to("cpu")
        dense = [dense_source(geometry.take(torch.tensor([row])), count) for row, count in enumerate(problem.num_parts)]
        widest = 6 * NUM_PARTS
        self.matrices = torch.zeros(NUM_SOURCES, len(dense[0].matrix), widest)
        self.projections, self.defaults = torch.zeros(NUM_SOURCES, widest, widest), torch.zeros(NUM_SOURCES, widest)
        for row, source in enumerate(dense):
            used = len(source.default)
            self.matrices[row, :, :used] = torch.from_numpy(source.matrix)
            self.projections[row, :used, :used] = torch.from_numpy(source.projection)
            self.defaults[row, :used] = torch.from_numpy(source.default)
        self.matrices, self.projections, self.defaults = (
            table.to(device) for table in (self.matrices, self.projections, self.defaults)
        )
        self.decoder = plain_decoder(problem.module).to(device)
        self.tables = {name: nn.Parameter(table.clone()) for name, table in problem.tables.items()}
        self.part_codes = [
            nn.Parameter(codes[:count].clone())
            for codes, count in zip(problem.tables["part_code"], problem.num_parts, strict=True)
        ]
        learned = [self.tables["global_code"], self.tables["target_code"], *self.part_codes]
        self.of_deformation = _optimiser([*self.decoder.parameters(), *learned])
        learned = [self.tables[name] for name in ("retrieval_weight", "source_embedding", "target_embedding")]
        self.of_retrieval = _optimiser(learned)
        self.rows = problem.rows.T.reshape(-1)
        self.repeated = problem.targets.repeat(NUM_CANDIDATES, 1, 1)
        self.mirror = torch.tensor([-1.0, 1.0, 1.0], device=device)

    def deformation(self) -> float:
        """Eq. 4 and the symmetry loss, both directions of both."""
        shapes = self._deformed()
        symmetry = self._chamfer(shapes, shapes * self.mirror).mean()
        return _update(self.of_deformation, self._chamfer(shapes, self.repeated).mean() + symmetry)

    def retrieval(self) -> float:
        """Eq. 2 on the same candidates, the embedding of each pair's source looked up."""
        with torch.no_grad():
            fitting = self._chamfer(self._deformed(), self.repeated).view(NUM_CANDIDATES, -1)
        weight = torch.sigmoid(self.tables["retrieval_weight"][self.rows])
        target = self.tables["target_embedding"].repeat(NUM_CANDIDATES, 1)
        squared = ((target - self.tables["source_embedding"][self.rows]) * weight).square().sum(1).view(fitting.shape)
        difference = torch.softmax(-squared / 100, 0) - torch.softmax(-100 * fitting, 0)
        return _update(self.of_retrieval, difference.abs().sum(0).mean())

    def _chamfer(self, x: Tensor, y: Tensor) -> Tensor:
        return TwoPasses.apply(x, y, self.nearest)  # pyright: ignore[reportReturnType]

    def _deformed(self) -> Tensor:
        codes = self.tables["target_code"]
        delta = torch.stack([self._decoded(row, codes[i % len(codes)]) for i, row in enumerate(self.rows.tolist())])
        parameters = torch.bmm(self.projections[self.rows], (self.defaults[self.rows] + ALPHA * delta)[..., None])
        return torch.bmm(self.matrices[self.rows], parameters).view(len(self.rows), -1, 3)

    def _decoded(self, row: int, target_code: Tensor) -> Tensor:
        parts = self.part_codes[row]
        of_source = self.tables["global_code"][row].expand(len(parts), -1)
        flat = self.decoder(torch.cat([of_source, target_code.expand(len(parts), -1), parts], 1)).view(-1)
        return nn.functional.pad(flat, (0, 6 * NUM_PARTS - len(flat)))


def first_losses(problem: Problem, nearest: Nearest) -> tuple[float, float]:
    """The first deformation loss of both sides: the same, or two different things would be timed."""
    ours, theirs = OurStep(problem).deformation(), PublishedStep(problem, nearest).deformation()
    print(f"first deformation loss: ours {ours:.7f}, published formulation {theirs:.7f}")
    assert abs(ours - theirs) <= 1e-4 * ours, "the two sides compute different things"
    return ours, theirs


def interleaved(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in each round, by the host's clock with the GPU at rest before and after."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):  # two warm up
        for name, run in runs.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            if number > 1:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Check that both sides compute the same, measure, print, write."""
    options = parser(__doc__).parse_args()
    if no_gpu((NAME,)):
        sys.exit(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    problem = a_problem(2 if options.quick else 16, 2048, "cuda")
    print(f"{len(problem.rows)} targets, {NUM_CANDIDATES} candidates, {torch.cuda.get_device_name()}")
    clouds = problem.geometry.points[torch.from_numpy(problem.rows.reshape(-1)).cuda()]
    passes = {shape: triton_pass(shape) for shape in SHAPES}
    tried = interleaved({str(shape): lambda run=run: run(clouds, clouds) for shape, run in passes.items()}, 3)
    nearest = min(passes.items(), key=lambda item: median(tried[str(item[0])]))[1]
    first_losses(problem, nearest)
    ours, theirs = OurStep(problem), PublishedStep(problem, nearest)
    seconds = interleaved(
        {
            "our deformation": ours.deformation,
            "our retrieval": ours.retrieval,
            "their deformation": theirs.deformation,
            "their retrieval": theirs.retrieval,
        },
        3 if options.quick else 10,
    )
    for name, times in seconds.items():
        print(f"    {name:20} {median(times) * 1e3:9.2f} ms")
    here, there = (
        [1e3 * sum(pair) for pair in zip(seconds[f"{whose} deformation"], seconds[f"{whose} retrieval"], strict=True)]
        for whose in ("our", "their")
    )
    measured = [compared(NAME, "ms", "published formulation, two passes", here, there)]
    finish(measured, options.json, options.csv)


if __name__ == "__main__":
    main()
