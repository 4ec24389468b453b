"""The pruned search against brute force: the same distances bit for bit, whatever the cloud looks like."""

import re
import subprocess
import sys
import threading
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jr_dist.errors import InputError
from jr_dist.geometry import leaves, nearest, simd
from jr_dist.geometry.blocks import run_blocks
from jr_dist.geometry.chamfer import nearest_neighbours, spatial_order

KINDS = ("normal", "uniform", "plane", "line", "point", "grid", "two heaps", "copies")


def a_cloud(kind: str, num_points: int, rng: np.random.Generator) -> np.ndarray:
    """[N, 3] float32: clouds that are hard on a tree as well as ordinary ones."""
    points = rng.normal(size=(num_points, 3))
    if kind == "uniform":
        points = rng.random((num_points, 3))
    elif kind == "plane":
        points[:, 1] = 0.25
    elif kind == "line":
        points[:, :2] = 1.0
    elif kind == "point":
        points[:] = 0.3
    elif kind == "grid":
        points = rng.integers(-2, 3, (num_points, 3)) / 4
    elif kind == "two heaps":
        points = points * 1e-3 + rng.integers(0, 2, (num_points, 1)) * 100
    elif kind == "copies":
        points = points[rng.integers(0, max(1, num_points // 4), num_points)]
    return points.astype(np.float32)


def brute_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[:, None].astype(np.float64) - y[None].astype(np.float64)) ** 2).sum(-1)


def check_pair(x: np.ndarray, y: np.ndarray) -> None:
    distances, indices = nearest_neighbours(torch.from_numpy(x)[None], torch.from_numpy(y)[None], backend="numba")
    true = brute_distances(x, y)
    found = true[np.arange(len(x)), indices[0].numpy()]
    # the index names a point at the distance that is reported, and none is nearer than rounding allows
    np.testing.assert_allclose(distances[0].numpy(), found, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(found, true.min(1), rtol=1e-6, atol=1e-30)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(KINDS),
    st.integers(1, 200),
    st.integers(1, 200),
    st.integers(-4, 4),
    st.integers(0, 2**32 - 1),
)
def test_neighbours_equal_brute_force(kind_x, kind_y, num_x, num_y, exponent, seed):
    rng = np.random.default_rng(seed)
    scale = np.float32(10.0**exponent)
    check_pair(a_cloud(kind_x, num_x, rng) * scale, a_cloud(kind_y, num_y, rng) * scale)


@pytest.mark.parametrize("num_points", range(1, 41))
def test_every_small_size(num_points):
    rng = np.random.default_rng(num_points)
    check_pair(a_cloud("normal", num_points, rng), a_cloud("normal", 41 - num_points, rng))


@pytest.mark.parametrize("sizes", [(2048, 2048), (5000, 700), (257, 4097)])
def test_large_clouds(sizes):
    rng = np.random.default_rng(0)
    check_pair(a_cloud("uniform", sizes[0], rng), a_cloud("two heaps", sizes[1], rng))


def test_distances_are_those_of_comparing_with_every_leaf():
    """Pruning never changes a bit: compared with one leaf box around everything, which prunes nothing."""
    rng = np.random.default_rng(3)
    x, y = (torch.from_numpy(a_cloud("normal", 500, rng))[None] for _ in range(2))
    pruned, _ = nearest_neighbours(x, y, backend="numba")
    blocks = [nearest_neighbours(x, y[:, i : i + 1], backend="numba")[0] for i in range(500)]
    assert torch.equal(pruned, torch.stack(blocks).min(0).values)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_spatial_order_is_a_permutation(kind, num_points, seed):
    cloud = a_cloud(kind, num_points, np.random.default_rng(seed))
    order = spatial_order(torch.from_numpy(cloud)[None])[0].numpy()
    assert (np.sort(order) == np.arange(num_points)).all()


def test_leaves_are_small():
    """The order keeps neighbours together: a leaf of 1024 uniform points is far smaller than 16 points at random."""
    cloud = np.random.default_rng(0).random((1024, 3), dtype=np.float32)
    order = spatial_order(torch.from_numpy(cloud)[None])[0].numpy()
    leaf = cloud[order].reshape(-1, 16, 3)
    assert np.ptp(leaf, axis=1).max(1).mean() < 0.4


def test_boxes_hold_their_points_and_padding_is_far():
    cloud = leaves.new_cloud(100)
    points = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    assert leaves.prepare(points, np.empty((0, 0), np.int32), 0, cloud)
    members = cloud.tree.reshape(3, -1, 16)
    assert (cloud.boxes[:3, :7] == members.min(2)).all() and (cloud.boxes[3:, :7] == members.max(2)).all()
    assert (cloud.boxes[:, 7:] == leaves.ABSENT).all()
    assert (cloud.tree[:, :100] == points[cloud.order].T).all()
    assert (cloud.tree[:, 100:] == cloud.tree[:, 99:100]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e19])
@pytest.mark.parametrize("which", ["x", "y"])
def test_a_bad_coordinate_is_refused_and_named(bad, which):
    clouds = {name: torch.randn(3, 50, 3) for name in "xy"}
    clouds[which][1, 17, 2] = bad
    with pytest.raises(InputError, match=f"cloud 1 of {which}"):
        nearest_neighbours(clouds["x"], clouds["y"], backend="numba")


def test_blocks_cover_everything_once_and_report_the_first_fault():
    for count, threads in [(1, 4), (7, 2), (160, 3), (1000, 2)]:
        done, lock = np.zeros(count, int), threading.Lock()

        def block(start, stop, done=done, lock=lock):
            with lock:
                done[start:stop] += 1
            return next((m + 1 for m in range(start, stop) if m % 5 == 3), 0)

        code = run_blocks(block, count, threads)
        assert (done == 1).all()
        assert code == (4 if count > 3 else 0)


def test_an_exception_on_a_thread_is_raised():
    def block(start, stop):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run_blocks(block, 50, 2)


def test_calls_from_several_threads_at_once_agree():
    """numba's own thread layers abort the process here."""
    x, y = torch.randn(20, 300, 3), torch.randn(20, 300, 3)
    expected, _ = nearest_neighbours(x, y)
    found = []
    threads = [threading.Thread(target=lambda: found.append(nearest_neighbours(x, y)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4 and all(torch.equal(distances, expected) for distances in found)


AFTER_FORK = """
import os, torch
from jr_dist.geometry.chamfer import chamfer
torch.set_num_threads(2)
x = torch.randn(8, 100, 3)
before = chamfer(x, x.flip(0), backend="numba")
child = os.fork()
if child == 0:
    same = torch.equal(before, chamfer(x, x.flip(0), backend="numba"))
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system has no fork")
def test_a_forked_process_computes():
    done = subprocess.run([sys.executable, "-c", AFTER_FORK], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0", done.stderr


def test_kernels_use_vectors():
    """Without them the search is some ten times slower, and nothing else would tell."""
    cloud = leaves.new_cloud(64)
    points = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    assert leaves.prepare(points, np.empty((0, 0), np.int32), 0, cloud)
    search: Any = numba.njit(**simd.OPTIONS)(nearest.search.py_func)  # compiled anew: cached code can't be read
    search(cloud, cloud)
    code = next(iter(search.inspect_asm().values()))
    # How many points of a leaf a turn of the loop compares is chosen for the processor: 8 on some, 16 on others.
    packed = re.findall(r"(?:sub|mul|madd\d+)ps|f(?:sub|mul|mla)\s+v\d+\.4s", code)
    scalar = re.findall(r"(?:sub|mul|madd\d+)ss|f(?:sub|mul|madd)\s+s\d+", code)
    assert len(packed) >= 5 * 8 and len(packed) > 10 * len(scalar), (
        "three subtractions and products a point, in vectors"
    )
