"""The chamfer on the CPU against its peers: value and gradient of 160 pairs of 2048 points.

    python benchmarks/chamfer.py [--quick] [--json FILE] [--threads T]

Every contender returns the losses and their gradient with respect to x, on the same pairs with the same threads, taking
turns. `near` pairs are two samplings of nearly one shape, `far` pairs two unrelated shapes; the records hold the worse
of both. Peers: torch.cdist without its matrix-product shortcut, with autograd; scipy's cKDTree built on both clouds,
gradient by gathering and scattering (threads over pairs).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import numpy as np
import torch
from harness import Record, far_pairs, finish, interleaved, machine, near_pairs, parser, ratio
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor

from jr_dist.geometry.chamfer import chamfer

Answer = tuple[Tensor, Tensor]
Contender = Callable[[Tensor, Tensor], Answer]

#: pairs that torch.cdist is given at a time, the fastest of 1 to 32: more only outgrow the cache
CDIST_PAIRS = 1
PEERS = ("cdist", "ckdtree")


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


def _ckdtree_pair(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    # unbalanced and loose nodes build faster than they search slower
    here, there = (cKDTree(cloud, balanced_tree=False, compact_nodes=False) for cloud in (x, y))
    to_y, nearest_y = there.query(x)
    to_x, nearest_x = here.query(y)
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


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    num_pairs, num_checked, rounds = (32, 4, 3) if options.quick else (160, 16, 5)
    contenders: dict[str, Contender] = {"ours": ours, "cdist": cdist, "ckdtree": ckdtree}
    print(f"{num_pairs} pairs of 2048 points, {rounds} rounds, {machine(options.threads)}")
    print(
        f"{'pairs':6} {'contender':10} {'ms a pair':>10} {'times ours':>11} {'loss error':>11} {'gradient error':>15}"
    )
    ratios: dict[str, list[float]] = {peer: [] for peer in PEERS}
    milliseconds = []
    for kind, make in (("near", near_pairs), ("far", far_pairs)):
        x, y = make(num_pairs, 2048)
        true = truth(x[:num_checked], y[:num_checked])
        seconds = interleaved({name: partial(run, x, y) for name, run in contenders.items()}, rounds)
        milliseconds.append(median(seconds["ours"]) / num_pairs * 1e3)
        for name, run in contenders.items():
            times = ratio(seconds["ours"], seconds[name])
            of_value, of_gradient = errors(run(x[:num_checked], y[:num_checked]), true)
            each = median(seconds[name]) / num_pairs * 1e3
            print(f"{kind:6} {name:10} {each:10.3f} {times:11.1f} {of_value:11.1e} {of_gradient:15.1e}")
            if name in PEERS:
                ratios[name].append(times)
    finish(
        [Record(f"chamfer.vs_{peer}", max(milliseconds), "ms", peer, min(ratios[peer])) for peer in PEERS],
        options.json,
    )


if __name__ == "__main__":
    main()
