"""The chamfer on a GPU against its peers and against the arithmetic of the machine: 160 pairs of 2048 points.

    python benchmarks/chamfer_gpu.py [--quick] [--csv FILE] [--json FILE]

    chamfer_gpu.vs_two_pass       value and gradient, in ms, and how many times longer the faster of two peers takes
    chamfer_gpu.of_fp32_limit     share of the machine's arithmetic that value and gradient attain

Every contender returns the losses and their gradient with respect to x on the same pairs; calls are captured in a CUDA
graph each, so that the host costs none of them anything, and graphs take turns. Pairs are two samplings of nearly one
shape. Peers: a Triton kernel that looks one direction at a time, in the fastest of several shapes, and torch.compile
of the same two passes; gradients of both by gathering and scattering with torch's atomic additions. Our own kernel
looking twice, one direction at a time, is printed beside them.

The limit: a kernel that does nothing but the eight instructions a distance cannot do without (three differences, three
multiplications and additions, two comparisons) says how many distances a second the machine has room for.

It needs torch, numpy, numba and Triton alone. Without a GPU it says so and what was not measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from harness import Record, finish, near_pairs, parser, ratio
from torch import Tensor

from jr_dist.geometry.chamfer import chamfer, one_sided

NAMES = ("chamfer_gpu.vs_two_pass", "chamfer_gpu.of_fp32_limit")
NUM_POINTS = 2048
#: queries and points of a program, and its warps
SHAPES = ((32, 32, 1), (64, 32, 2), (64, 64, 4), (128, 32, 4), (128, 64, 8), (256, 32, 8))

Answer = tuple[Tensor, Tensor]
Nearest = Callable[[Tensor, Tensor], Answer]


def no_gpu(names: tuple[str, ...]) -> bool:
    """Whether there is no GPU; then one line says what was not measured."""
    if torch.cuda.is_available():
        return False
    print(f"no GPU: not measured: {', '.join(names)}")
    return True


# ---- contenders --------------------------------------------------------------------------------


def ours(x: Tensor, y: Tensor) -> Answer:
    """Both directions in one pass."""
    return _with_gradient(chamfer, x, y)


def ours_twice(x: Tensor, y: Tensor) -> Answer:
    """Our kernel, one direction at a time."""
    return _with_gradient(lambda a, b: one_sided(a, b) + one_sided(b, a), x, y)


def _with_gradient(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Answer:
    x = x.detach().requires_grad_()
    value = loss(x, y)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


def triton_pass(shape: tuple[int, int, int]) -> Nearest:
    """Nearest neighbours in one direction by the peer's kernel, in a shape of SHAPES."""
    import gpu_kernels

    kernel: Any = gpu_kernels.one_direction
    num_queries_each, num_points_each, num_warps = shape

    def nearest(queries: Tensor, cloud: Tensor) -> Answer:
        distances = torch.empty_like(queries[..., 0])
        indices = torch.empty(distances.shape, dtype=torch.int64, device=queries.device)
        blocks = -(-queries.shape[1] // num_queries_each)
        sizes = (queries.shape[1], cloud.shape[1], blocks)
        kernel[(len(queries) * blocks,)](
            queries, cloud, distances, indices, *sizes,
            QUERIES=num_queries_each, POINTS=num_points_each, num_warps=num_warps, enable_fp_fusion=False,
        )  # fmt: skip
        return distances, indices

    return nearest


def plain_pass(queries: Tensor, cloud: Tensor) -> Answer:
    """The same in torch, for torch.compile, which keeps the matrix of distances out of memory."""
    squared = (queries[:, :, None, 0] - cloud[:, None, :, 0]).square()
    for axis in (1, 2):
        squared = squared + (queries[:, :, None, axis] - cloud[:, None, :, axis]).square()
    found = squared.min(2)
    return found.values, found.indices


def two_passes(nearest: Nearest, x: Tensor, y: Tensor) -> Answer:
    """The chamfer and its gradient to x from one pass each way."""
    there, at_y = nearest(x, y)
    back, at_x = nearest(y, x)
    return there.mean(1) + back.mean(1), gradient_to(x, y, at_y, at_x)


def gradient_to(x: Tensor, y: Tensor, at_y: Tensor, at_x: Tensor) -> Tensor:
    """The gradient to x, given whom of y each of x is nearest to, and whom of x each of y."""
    gradient = (x - y.gather(1, _axes(at_y))) * (2 / x.shape[1])
    pull = (x.gather(1, _axes(at_x)) - y) * (2 / y.shape[1])
    return gradient.scatter_add(1, _axes(at_x), pull)


def _axes(indices: Tensor) -> Tensor:
    return indices.unsqueeze(-1).expand(-1, -1, 3)


def fastest_two_passes(x: Tensor, y: Tensor, rounds: int) -> Callable[[], Answer]:
    """The peer's kernel in its fastest shape, tried on these clouds."""
    runs = {shape: captured(lambda shape=shape: two_passes(triton_pass(shape), x, y)) for shape in SHAPES}
    seconds = {shape: median(times) for shape, times in interleaved_on_gpu(runs, rounds).items()}
    best = min(seconds, key=seconds.__getitem__)
    print("two passes in Triton, (queries, points, warps) of a program: ms")
    for shape, value in seconds.items():
        print(f"    {shape!s:16} {value * 1e3:8.3f}{'  taken' if shape == best else ''}")
    return lambda: two_passes(triton_pass(best), x, y)


# ---- timing ------------------------------------------------------------------------------------


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """`run` as a CUDA graph: what it costs the GPU, without the host."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def interleaved_on_gpu(runs: dict[Any, Callable[[], object]], rounds: int, calls: int = 10) -> dict[Any, list[float]]:
    """Seconds a call of each contender in each round, by the GPU's clock."""
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):  # the first warms up
        for name, run in runs.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                run()
            stop.record()
            stop.synchronize()
            if number:
                seconds[name].append(start.elapsed_time(stop) / 1e3 / calls)
    return seconds


def room_for_distances(rounds: int) -> float:
    """Distances a second that the machine could take and compare twice, were there nothing else to do."""
    import gpu_kernels

    kernel: Any = gpu_kernels.arithmetic
    programs, repeats = 64 * torch.cuda.get_device_properties(0).multi_processor_count, 4096
    out = torch.empty(programs * gpu_kernels.ARITHMETIC_ELEMENTS, device="cuda")
    seed = torch.tensor([0.25, 0.5, 0.125], device="cuda")
    run = captured(lambda: kernel[(programs,)](out, seed, repeats, num_warps=4, enable_fp_fusion=False))
    seconds = median(interleaved_on_gpu({"limit": run}, rounds)["limit"])
    return out.numel() * repeats / seconds


# ---- answers -----------------------------------------------------------------------------------


def check(answers: dict[str, Answer], x: Tensor, y: Tensor) -> None:
    """Print the errors against float64 of the first pairs, and refuse to time what is wrong."""
    x, y = x.double(), y.double()
    true = two_passes(lambda a, b: plain_pass(a, b), x, y)
    for name, answer in answers.items():
        value, gradient = (part[: len(x)].double() for part in answer)
        of_value = float(((value - true[0]).abs() / true[0]).max())
        of_gradient = float(((gradient - true[1]).flatten(1).norm(dim=1) / true[1].flatten(1).norm(dim=1)).max())
        print(f"{name:26} loss error {of_value:.1e}, gradient error {of_gradient:.1e}")
        assert of_value <= 1e-6 and of_gradient <= 1e-5, f"{name} is wrong"


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__).parse_args()
    if no_gpu(NAMES):
        sys.exit(0)
    num_pairs, rounds = (32, 3) if options.quick else (160, 10)
    x, y = (cloud.cuda() for cloud in near_pairs(num_pairs, NUM_POINTS))
    print(f"{num_pairs} pairs of {NUM_POINTS} points, {torch.cuda.get_device_name()}, torch {torch.__version__}")
    compiled = torch.compile(plain_pass, dynamic=False)
    calls: dict[str, Callable[[], Answer]] = {
        "ours": lambda: ours(x, y),
        "ours, one at a time": lambda: ours_twice(x, y),
        "two passes, Triton": fastest_two_passes(x, y, rounds),
        "two passes, torch.compile": lambda: two_passes(compiled, x, y),
    }
    check({name: call() for name, call in calls.items()}, x[:4], y[:4])
    seconds = interleaved_on_gpu({name: captured(call) for name, call in calls.items()}, rounds)
    values = interleaved_on_gpu({"value": captured(lambda: chamfer(x, y))}, rounds)["value"]
    distances = num_pairs * NUM_POINTS**2 / room_for_distances(rounds)
    print(f"\n{'contender':26} {'ms':>8} {'times ours':>11} {'of the limit':>13}")
    for name, times in {**seconds, "ours, value alone": values}.items():
        times_ours = ratio(seconds["ours"], times)
        print(f"{name:26} {median(times) * 1e3:8.3f} {times_ours:11.2f} {distances / median(times):13.1%}")
    peer = min(("two passes, Triton", "two passes, torch.compile"), key=lambda name: median(seconds[name]))
    here = median(seconds["ours"])
    finish(
        [
            Record(NAMES[0], here * 1e3, "ms", peer, ratio(seconds["ours"], seconds[peer])),
            Record(NAMES[1], distances / here, "", "eight instructions a distance"),
        ],
        options.json,
        options.csv,
    )


if __name__ == "__main__":
    main()
