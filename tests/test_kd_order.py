"""The kd order: each cell is cut at a median, keys sort like the floats they come from, on any processor alike."""

import hashlib
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from test_nearest import KINDS, a_cloud

from jr_dist.geometry.gather_lanes import gather, load_integers
from jr_dist.geometry.kd_order import sort_spatially
from jr_dist.geometry.key_lanes import below, compress, count, places, sortable
from jr_dist.geometry.simd import OPTIONS, load, splat, store


def kd_order(cloud: np.ndarray) -> np.ndarray:
    slots = -(-len(cloud) // 16) * 16
    order = np.empty(slots, np.int32)
    sort_spatially(cloud.reshape(-1), order, np.empty(3 * (slots + 32), np.int32))
    return order[: len(cloud)]


def is_cut(cloud: np.ndarray) -> bool:
    """Whether some axis has the first half not above the second, down to single leaves, but for a key's low bits."""
    if len(cloud) <= 16:
        return True
    half = (-(-len(cloud) // 16) + 1) // 2 * 16
    low, high = cloud[:half].max(0), cloud[half:].min(0)
    resolution = 2.0 ** (np.ceil(np.log2(len(cloud))) - 22) * np.abs(cloud).max(0)
    return bool((low - high <= resolution).any()) and is_cut(cloud[:half]) and is_cut(cloud[half:])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 1500), st.integers(0, 2**32 - 1))
def test_every_cell_is_cut_in_two(kind, num_points, seed):
    cloud = a_cloud(kind, num_points, np.random.default_rng(seed))
    order = kd_order(cloud)
    assert (np.sort(order) == np.arange(num_points)).all()
    assert is_cut(cloud[order].astype(np.float64))


@njit(**OPTIONS)
def _keys(values, first, mask, keys):
    store(keys, 0, sortable(load(values, 0), mask, places(np.int32(first), np.int32(1))))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=16, max_size=16), st.integers(4, 20))
def test_keys_sort_like_floats_and_end_in_their_place(values, bits):
    mask, keys = np.int32((1 << bits) - 1), np.empty(16, np.int32)
    floats = np.array(values, np.float32) + np.float32(0)  # -0 comes before 0
    _keys(floats, 0, mask, keys)
    assert (keys & mask == np.arange(16)).all() and len(set(keys)) == 16
    coarse = keys[np.argsort(floats, kind="stable")] & ~mask
    assert (np.diff(coarse.astype(np.int64)) >= 0).all()


@njit(**OPTIONS)
def _compressed(values, order, limit, out):
    lanes = gather(values, load_integers(order, 0))
    less = below(lanes, splat(limit))
    store(out, 0, compress(lanes, less))
    return count(less)


def test_compress_moves_what_is_asked_for_to_the_front_in_order():
    rng = np.random.default_rng(0)
    for limit in range(-1, 34):
        values, order = rng.permutation(32).astype(np.int32), rng.permutation(32)[:16].astype(np.int32)
        out = np.empty(16, np.int32)
        kept = values[order][values[order] < limit]
        assert _compressed(values, order, np.int32(limit), out) == len(kept)
        assert (out[: len(kept)] == kept).all()


SORTED = """
import hashlib, sys
sys.path.insert(0, "tests")
from test_kd_order import digest_of_orders
print(digest_of_orders())
"""


def digest_of_orders() -> str:
    orders = [kd_order(a_cloud(kind, 700, np.random.default_rng(5))) for kind in KINDS]
    return hashlib.sha256(np.concatenate(orders).tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names a processor of this kind")
def test_a_processor_with_shorter_vectors_gives_the_same_order(tmp_path):
    environment = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SORTED], capture_output=True, text=True, timeout=300, env=os.environ | environment
    )
    assert done.stdout.strip() == digest_of_orders(), done.stderr
