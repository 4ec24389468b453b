"""The chamfer on the CPU against its peers: value and gradient of 160 pairs of 2048 points.

    python benchmarks/chamfer.py [--quick] [--csv FILE] [--json FILE] [--threads T]

    chamfer.vs_cdist, chamfer.vs_ckdtree   milliseconds a pair, and how many times longer the peers take
    chamfer.loss_error, chamfer.gradient_error   against float64, relative: the largest of a pair
    chamfer.stage.STAGE   ours on near pairs, by leaving it out: `sort` into spatial order, `search` (with the boxes),
                          `gradient`

Every contender returns the losses and their gradient with respect to x, on the same pairs with the same threads, taking
turns. `near` pairs are two samplings of nearly one shape, `far` pairs two unrelated shapes; the records hold the worse
of both. Peers: torch.cdist without its matrix-product shortcut, with autograd; scipy's cKDTree built on both clouds,
gradient by gathering and scattering (threads over pairs). --quick gives torch.cdist, which takes a pair at a time
anyway, a fifth of the pairs each round, all of them in five.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from statistics import median

import numpy as np
import torch
from harness import Record, compared, far_pairs, finish, interleaved, machine, near_pairs, parser, spread
from limits import SEARCH, search_seconds
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from jr_dist.geometry.chamfer import chamfer, spatial_order

Answer = tuple[Tensor, Tensor]
Contender = Callable[[Tensor, Tensor], Answer]

#: pairs that torch.cdist is given at a time, the fastest of 1 to 32: more only outgrow the cache
CDIST_PAIRS = 1
PEERS = {"cdist": "torch.cdist and autograd", "ckdtree": "scipy's cKDTree on both clouds"}


def ours(x: Tensor, y: Tensor) -> Answer:
    """jr_dist's chamfer."""
    return _with_gradient(chamfer, x, y)


def cdist(x: Tensor, y: Tensor) -> Answer:
    """torch's exact pairwise distances and autograd."""
    blocks = zip(x.split(CDIST_PAIRS), y.split(CDIST_PAIRS), strict=True)
    answers = [_with_gradient(cdist_loss, a, b) for a, b in blocks]
    return torch.cat([value for value, _ in answers]), torch.cat([gradient for _, gradient in answers])


def cdist_loss(x: Tensor, y: Tensor) -> Tensor:
    """The chamfer by torch.cdist without its matrix-product shortcut, which flips neighbours."""
    distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.amin(2).square().mean(1) + distance.amin(1).square().mean(1)


def _with_gradient(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Answer:
    x = x.detach().requires_grad_()
    value = loss(x, y)
    value.sum().backward()
    assert x.grad is not None
    return value.detach(), x.grad


def ckdtree(x: Tensor, y: Tensor) -> Answer:
    """scipy's k-d trees."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        answers = list(pool.map(_ckdtree_pair, x.numpy(), y.numpy()))
    return torch.tensor([value for value, _ in answers]), torch.from_numpy(np.stack([g for _, g in answers]))


def ckdtree_loss(x: np.ndarray, y: np.ndarray) -> float:
    """The chamfer of two clouds [N, 3] by scipy's k-d trees, without a gradient."""
    to_y, _, to_x, _ = _ckdtree_neighbours(x, y)
    return float(np.square(to_y).mean() + np.square(to_x).mean())


def _ckdtree_neighbours(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    # unbalanced and loose nodes build faster than they search slower
    here, there = (cKDTree(cloud, balanced_tree=False, compact_nodes=False) for cloud in (x, y))
    return (*there.query(x), *here.query(y))


def _ckdtree_pair(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    to_y, nearest_y, to_x, nearest_x = _ckdtree_neighbours(x, y)
    gradient = (x - y[nearest_y]) * (2 / len(x))
    pull = (x[nearest_x] - y) * (2 / len(y))
    for axis in range(3):
        gradient[:, axis] += np.bincount(nearest_x, pull[:, axis], len(x))
    return float(np.square(to_y).mean() + np.square(to_x).mean()), gradient


def truth(x: Tensor, y: Tensor) -> Answer:
    """The definition in float64, by autograd."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        squared = (x[:, :, None] - y[:, None]).square().sum(-1)
        return squared.amin(2).mean(1) + squared.amin(1).mean(1)

    answers = [_with_gradient(loss, a[None].double(), b[None].double()) for a, b in zip(x, y, strict=True)]
    return torch.cat([value for value, _ in answers]), torch.cat([gradient for _, gradient in answers])


def errors(answer: Answer, true: Answer) -> tuple[float, float]:
    """Largest relative error of a loss, and of a pair's gradient (norm of the difference to norm)."""
    value, gradient = (part.double() for part in answer)
    of_value = ((value - true[0]).abs() / true[0]).max()
    of_gradient = (gradient - true[1]).flatten(1).norm(dim=1) / true[1].flatten(1).norm(dim=1)
    return float(of_value), float(of_gradient.max())


CONTENDERS: dict[str, Contender] = {"ours": ours, "cdist": cdist, "ckdtree": ckdtree}


def in_turn(run: Contender, x: Tensor, y: Tensor, num_parts: int) -> Callable[[], Answer]:
    """A contender that is given the next of so many parts of the pairs each time it is called."""
    parts = cycle(zip(x.chunk(num_parts), y.chunk(num_parts), strict=True))
    return lambda: run(*next(parts))


def milliseconds(x: Tensor, y: Tensor, num_parts: dict[str, int], rounds: int) -> dict[str, list[float]]:
    """A pair, of each contender in each round."""
    runs: dict[str, Callable[[], object]] = {
        name: in_turn(run, x, y, num_parts[name]) for name, run in CONTENDERS.items()
    }
    for run in CONTENDERS.values():
        run(x[:2], y[:2])  # compiles, or reads what was compiled
    seconds = interleaved(runs, rounds, warm_up=False)
    return {name: [1e3 * s * num_parts[name] / len(x) for s in times] for name, times in seconds.items()}


def stages(x: Tensor, y: Tensor, rounds: int) -> list[Record]:
    """What ours spends its time on."""
    in_order = partial(chamfer, x_order=spatial_order(x), y_order=spatial_order(y))
    runs: dict[str, Callable[[], object]] = {
        "all": lambda: ours(x, y),
        "sorted": lambda: _with_gradient(in_order, x, y),
        "value": lambda: in_order(x, y),
    }
    seconds = interleaved(runs, 3 * rounds)
    each = {name: [1e3 * s / len(x) for s in times] for name, times in seconds.items()}
    found = {
        "sort": [a - b for a, b in zip(each["all"], each["sorted"], strict=True)],
        "search": each["value"],
        "gradient": [a - b for a, b in zip(each["sorted"], each["value"], strict=True)],
    }
    return [spread(f"chamfer.stage.{name}", times, "ms") for name, times in found.items()]


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    num_pairs, num_checked, rounds = 160, 16, 5
    num_parts = {name: 5 if options.quick and name == "cdist" else 1 for name in CONTENDERS}
    print(f"{num_pairs} pairs of 2048 points, {rounds} rounds, {machine(options.threads)}")
    print(f"{'pairs':6} {'contender':10} {'ms a pair':>10} {'loss error':>11} {'gradient error':>15}")
    records: dict[str, list[Record]] = {peer: [] for peer in PEERS}
    worst = (0.0, 0.0)
    for kind, make in (("near", near_pairs), ("far", far_pairs)):
        x, y = make(num_pairs, 2048)
        true = truth(x[:num_checked], y[:num_checked])
        each = milliseconds(x, y, num_parts, rounds)
        limit = 1e3 * search_seconds(x[:num_checked], y[:num_checked])
        for name, run in CONTENDERS.items():
            found = errors(run(x[:num_checked], y[:num_checked]), true)
            worst = (max(worst[0], found[0]), max(worst[1], found[1])) if name == "ours" else worst
            print(f"{kind:6} {name:10} {median(each[name]):10.3f} {found[0]:11.1e} {found[1]:15.1e}")
        for peer in PEERS:
            times = each["ours"], each[peer]
            records[peer].append(
                compared(f"chamfer.vs_{peer}", "ms", PEERS[peer], *times, limit=limit, limit_is=SEARCH)
            )
    kept = [min(both, key=lambda record: record.ratio or 0) for both in records.values()]
    x, y = near_pairs(num_pairs, 2048)
    kept += stages(x, y, rounds)
    wrong = [Record(f"chamfer.{what}_error", value, "") for what, value in zip(("loss", "gradient"), worst)]
    finish(kept + wrong, options.json, options.csv)


if __name__ == "__main__":
    main()
