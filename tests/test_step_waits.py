"""How often the host waits for what a step computes, and that nothing moves where that isn't finite."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train import settings
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jr_dist.data.dataset import open_dataset
from jr_dist.data.source_store import SourceStore
from jr_dist.data.step_plan import step_plan
from jr_dist.data.streams import TargetBatch, local_target_batches
from jr_dist.data.transfer import pack, read, unpack
from jr_dist.train.candidates import begin_draw
from jr_dist.train.group import Group
from jr_dist.train.methods.plan import StepPlan
from jr_dist.train.state import TrainState, new_state
from jr_dist.train.step import joint_step
from jr_dist.train.trainer import train

JOINT = StepPlan(soft=True, weighted=True, deformation=True, retrieval=True)
#: operations whose answer, or its size, the host has to know
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::unique_consecutive", "aten::_unique2")

#: what a GPU has kernels of its own for
OF_THE_CPU = (
    *("largest_product.py:_tiled", "largest_product.py:_LargestProduct", "boxes.py:_array"),
    *("chamfer.py:as_array", "chamfer.py:as_order", "chamfer.py:_Chamfer"),
)


class Waits(TorchDispatchMode):
    """Counts them by the function of ours, or torch's optimiser, that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.by: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in WAITS:
            self.by[_asker()] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts by function of ours, too, whatever would copy from a GPU without a word to the dispatcher."""
    by: Counter[str] = Counter()

    def counting(copy: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **how: Any) -> Any:
            by[_asker()] += 1
            return copy(*args, **how)

        return counted

    with monkeypatch.context() as patch:
        for name in ("cpu", "numpy", "tolist", "__array__"):
            patch.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name)))
        yield by


def _asker() -> str:
    frame = sys._getframe(2)
    while frame is not None and not any(place in frame.f_code.co_filename for place in ("jr_dist", "torch/optim")):
        frame = frame.f_back
    return (
        "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_qualname.partition('.')[0]}"
    )


def a_run(dataset: Path, run: Path, device: str = "cpu", **overrides) -> tuple[TrainState, TargetBatch]:
    """A run at its first step, and the batch of it."""
    config = settings(dataset, run, **overrides)
    opened = open_dataset(dataset)
    state = new_state(config, SourceStore.open(opened), Group(), device)
    plan = step_plan(
        opened, "train", None, batch_size=8, num_points=128, encoder_points=64, seed=0, rank=0, world_size=1
    )
    return state, next(iter(local_target_batches(plan, range(1))))


def test_what_the_host_waits_for(tiny_dataset, tmp_path, monkeypatch):
    """Bounds that are checked on the CPU alone, and adam's count of steps, which is kept on the host."""
    state, batch = a_run(tiny_dataset, tmp_path / "run")
    draw = begin_draw(state, batch, soft=True)
    with Waits() as waits, copies(monkeypatch) as by:
        joint_step(state, batch, JOINT, 1e-3, draw)
    num_weights = sum(weight.grad is not None for weight in state.networks.parameters())
    assert waits.by == {"chamfer.py:rows_of": 2, "chamfer.py:as_order": 4, "optimizer.py:_get_value": num_weights}
    # `read`, which is the one wait of a GPU, and forms of the CPU alone: compiled kernels take arrays.
    assert set(by) == {"transfer.py:read", "step.py:joint_step", *OF_THE_CPU} and by["step.py:joint_step"] == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_host_waits_for_an_event_alone(tiny_dataset, tmp_path):
    state, batch = a_run(tiny_dataset, tmp_path / "run", "cuda")
    for _ in range(2):  # the first copies the sources
        draw = begin_draw(state, batch, soft=True)
        draw.candidates()
        joint_step(state, batch, JOINT, 1e-3, draw)
    draw = begin_draw(state, batch, soft=True)
    draw.candidates()
    torch.cuda.set_sync_debug_mode("error")
    try:
        joint_step(state, batch, JOINT, 1e-3, draw)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("broken", "said"), [("deformation", "deformed boxes"), ("retrieval_encoder", "loss")])
def test_nothing_moves_where_a_step_is_not_finite(tiny_dataset, tmp_path, broken, said):
    state, batch = a_run(tiny_dataset, tmp_path / "run")
    draw = begin_draw(state, batch, soft=True)
    draw.candidates()
    last = [module for module in getattr(state.networks, broken).modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.bias[0] = torch.nan
    everything = np.arange(len(state.store))
    before = {name: value.clone() for name, value in state.networks.named_parameters()}
    [codes] = read(state.bank.pull(everything).leaves())
    with pytest.raises(FloatingPointError, match=f"step 0: {said} not finite"):
        joint_step(state, batch, JOINT, 1e-3, draw)
    assert all(
        torch.equal(before[name].nan_to_num(), value.nan_to_num()) for name, value in state.networks.named_parameters()
    )
    [after] = read(state.bank.pull(everything).leaves())
    assert all(np.array_equal(codes[name], after[name]) for name in codes)
    assert not state.optimiser.state and state.bank.version == 0


def test_values_packed_for_one_copy_come_apart_again():
    tensors = [torch.tensor(1.5), torch.rand(3, 4), torch.zeros(0, 2), torch.tensor(True)]
    apart = unpack(pack(tensors).numpy(), [tuple(tensor.shape) for tensor in tensors])
    assert all(np.array_equal(array, tensor.float().numpy()) for array, tensor in zip(apart, tensors, strict=True))
    assert [array.shape for array in apart] == [(), (3, 4), (0, 2), ()]


def test_a_bfloat16_run_comes_to_nearly_the_same_fit(tiny_dataset, tmp_path):
    """Within 3 % of float32's chamfer of validation, and not the same bits."""
    exact, short = (
        train(settings(tiny_dataset, tmp_path / name, train__precision=name)).metrics["chamfer_x100"]
        for name in ("float32", "bfloat16")
    )
    assert short != exact
    assert short == pytest.approx(exact, rel=0.03)
