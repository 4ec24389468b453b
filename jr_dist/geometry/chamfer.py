"""The one chamfer distance: squared, mean over points, both directions added (the paper's L_fit, not scaled).

On the CPU it is exact and pruned (nearest.py), on a GPU one pass over all distances (chamfer_triton.py); other numbers
than float32, and the check of both, are brute force in plain torch (brute_force.py). The gradient needs only who is
nearest to whom, so it is made together with the value.

The compiled code is kept beside the source or, where that can't be written, in the user's cache; the environment
variable NUMBA_CACHE_DIR names another place. The first call on a new machine compiles for some ten seconds.
"""

from importlib.util import find_spec
from os import environ
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64, Integer
from torch import Tensor
from torch.autograd.function import once_differentiable

from jr_dist.errors import InputError
from jr_dist.geometry import nearest
from jr_dist.geometry.brute_force import add_at, nearest_by_comparison, pairs_by_comparison

Backend = Literal["auto", "numba", "triton", "torch"]


def chamfer(
    x: Float[Tensor, "M N 3"],
    y: Float[Tensor, "B N2 3"],
    *,
    y_index: Integer[Tensor, " M"] | None = None,
    x_order: Int32[Tensor, "M N"] | None = None,
    y_order: Int32[Tensor, "B N2"] | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, " M"]:
    """Squared chamfer of M pairs of clouds: mean_x min_y |x - y|^2 + mean_y min_x |x - y|^2, in squared units.

    Pair m is (x[m], y[m]), or (x[m], y[y_index[m]]): a target need not be repeated for its K candidates. Orders, from
    `spatial_order` of the same clouds before they were deformed, save the sorting; they never change the answer.
    Differentiable once in x and y. The numba backend takes float32 on the CPU and uses torch.get_num_threads()
    threads, the triton backend takes float32 on a GPU; "auto" takes them where it can and torch elsewhere.

    Raises:
        InputError: an empty cloud, a coordinate that isn't finite, numbers of clouds that don't match, or a backend
            that can't take these tensors. (On a GPU NaN is not looked for, which would wait for the device: it shows
            as a loss of NaN.)
    """
    return _evaluate(x, y, y_index, x_order, y_order, backend, two_sided=True)


def one_sided(
    x: Float[Tensor, "M N 3"],
    y: Float[Tensor, "B N2 3"],
    *,
    y_index: Integer[Tensor, " M"] | None = None,
    x_order: Int32[Tensor, "M N"] | None = None,
    y_order: Int32[Tensor, "B N2"] | None = None,
    backend: Backend = "auto",
) -> Float[Tensor, " M"]:
    """The half of `chamfer` that looks from x to y: mean_x min_y |x - y|^2. Arguments and errors as there."""
    return _evaluate(x, y, y_index, x_order, y_order, backend, two_sided=False)


def nearest_neighbours(
    x: Float[Tensor, "M N 3"],
    y: Float[Tensor, "B N2 3"],
    *,
    y_index: Integer[Tensor, " M"] | None = None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "M N"], Int64[Tensor, "M N"]]:
    """Squared distance from each point of x to the nearest of y, and that one's index; no gradient.

    Among equally near points any may be named, the same one every time. Errors as for `chamfer`.
    """
    x, y = x.detach(), y.detach()
    rows = rows_of(x, y, y_index)
    backend = choose_backend(backend, x, y)
    if backend != "numba":
        refuse_not_finite(x=x, y=y)
        return triton_kernels().neighbours(x, y, rows) if backend == "triton" else nearest_by_comparison(x, y, rows)
    distances, indices = nearest.neighbours(as_array(x), as_array(y), rows.numpy(), num_threads=torch.get_num_threads())
    return torch.from_numpy(distances), torch.from_numpy(indices)


def chamfer_matrix(
    x: Float[Tensor, "A N 3"], y: Float[Tensor, "B N2 3"], *, two_sided: bool = True, backend: Backend = "auto"
) -> Float[Tensor, "A B"]:
    """Chamfer (or the half that looks from x to y) of each cloud of x with each of y; no gradient.

    Errors as for `chamfer`.
    """
    x, y = x.detach(), y.detach()
    refuse_empty(x=x, y=y)
    backend = choose_backend(backend, x, y)
    if backend == "numba":
        sides = (True, two_sided)
        value = nearest.matrix(as_array(x), as_array(y), num_threads=torch.get_num_threads(), sides=sides)
        return torch.from_numpy(value)
    columns = torch.arange(len(y), device=x.device)
    value = x.new_empty((len(x), len(y)))
    for row in range(len(x)):
        clouds = x[row].expand(len(y), -1, -1)
        value[row] = _evaluate(clouds, y, columns, None, None, backend, two_sided=two_sided)
    return value


def spatial_order(points: Float32[Tensor, "M N 3"]) -> Int32[Tensor, "M N"]:
    """An order in which neighbours in space are neighbours in memory (CPU tensors), for `chamfer`'s `x_order`.

    Moving or scaling parts keeps most neighbours together, so a source's order serves all its deformations.
    """
    refuse_empty(points=points)
    return torch.from_numpy(nearest.spatial_order(as_array(points), num_threads=torch.get_num_threads()))


class _Chamfer(torch.autograd.Function):
    """Keeps the gradient of each pair; going backward only scales it and adds up the pairs that share a y."""

    @staticmethod
    def forward(ctx, x, y, rows, x_order, y_order, backend, two_sided, wanted):
        if backend == "torch":
            value, gradient_x, gradient_y = pairs_by_comparison(x, y, rows, two_sided=two_sided, gradient=any(wanted))
        elif backend == "triton":
            value, gradient_x, gradient_y = triton_kernels().pairs(x, y, rows, two_sided=two_sided, gradients=wanted)
        else:
            arrays = nearest.pairs(
                as_array(x),
                as_array(y),
                rows.numpy(),
                as_order(x_order, x),
                as_order(y_order, y),
                two_sided=two_sided,
                gradients=wanted,
                num_threads=torch.get_num_threads(),
            )
            value, gradient_x, gradient_y = map(torch.from_numpy, arrays)
        ctx.save_for_backward(rows, *(g if w else None for g, w in zip((gradient_x, gradient_y), wanted, strict=True)))
        ctx.num_y = len(y)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, gradient_x, gradient_y = ctx.saved_tensors
        scale = grad[:, None, None]
        to_x = gradient_x * scale if ctx.needs_input_grad[0] else None
        to_y = None
        if ctx.needs_input_grad[1]:
            to_y = gradient_y.new_zeros((ctx.num_y, *gradient_y.shape[1:]))
            add_at(to_y, rows, gradient_y * scale)
        return to_x, to_y, None, None, None, None, None, None


def _evaluate(x, y, y_index, x_order, y_order, backend, *, two_sided):
    rows = rows_of(x, y, y_index)
    backend = choose_backend(backend, x, y)
    if backend != "numba":
        refuse_not_finite(x=x, y=y)
    wanted = tuple(torch.is_grad_enabled() and cloud.requires_grad for cloud in (x, y))
    return _Chamfer.apply(x, y, rows, x_order, y_order, backend, two_sided, wanted)


def choose_backend(backend: str, *clouds: Tensor) -> Backend:
    """Which of "numba", "triton" and "torch"; raises InputError where it is missing or cannot take these tensors."""
    devices = {cloud.device.type for cloud in clouds} if all(c.dtype == torch.float32 for c in clouds) else set()
    fits: Backend = "numba" if devices == {"cpu"} else "triton" if devices == {"cuda"} else "torch"
    found = ", ".join(f"{cloud.dtype} on {cloud.device}" for cloud in clouds)
    if backend not in ("auto", "numba", "triton", "torch"):
        raise InputError(f"chamfer: backend {backend!r} is not known; auto, numba, triton and torch are")
    if backend == "triton" and fits == "numba" and environ.get("TRITON_INTERPRET") == "1":
        return "triton"  # interpreted, Triton's kernels run on the CPU
    if backend not in ("auto", "torch", fits):
        where = "the CPU" if backend == "numba" else "a GPU"
        raise InputError(f"chamfer: backend {backend} takes float32 on {where}, got {found}; use auto or torch")
    if backend == "torch" or fits != "triton":
        return "torch" if backend == "torch" else fits
    if find_spec("triton") is None:
        raise InputError(
            f"chamfer: {found} needs Triton, which is not installed here; it comes with torch on Linux, so install "
            "that torch, or work on the CPU"
        )
    return "triton"


def triton_kernels():
    """chamfer_triton.py, imported where it is used: all but a GPU works without Triton."""
    from jr_dist.geometry import chamfer_triton

    return chamfer_triton


def as_array(cloud: Tensor) -> np.ndarray:
    """The tensor's own memory where it is contiguous."""
    return cloud.detach().contiguous().numpy()


def as_order(order: Tensor | None, cloud: Tensor) -> np.ndarray:
    """An order as the kernels take it: [0, 0] for none. They do not check bounds, so it is done here."""
    if order is None:
        return np.empty((0, 0), np.int32)
    assert order.shape == cloud.shape[:2] and order.dtype == torch.int32, "an order is [clouds, points] int32"
    if order.numel():
        low, high = (int(bound) for bound in torch.aminmax(order))
        assert low >= 0 and high < cloud.shape[1], "an order is a permutation of the points"
    return order.contiguous().numpy()


def rows_of(x: Tensor, y: Tensor, y_index: Tensor | None) -> Tensor:
    """The row of y that each cloud of x meets."""
    refuse_empty(x=x, y=y)
    if y_index is None:
        if len(x) != len(y):
            raise InputError(f"chamfer: {len(x)} clouds against {len(y)}; give as many, or y_index")
        return torch.arange(len(x), device=x.device)
    assert y_index.shape == (len(x),), "y_index holds a row of y for each cloud of x"
    if y_index.device.type == "cpu" and len(y_index):
        low, high = (int(bound) for bound in torch.aminmax(y_index))
        assert low >= 0 and high < len(y), "y_index is a row of y"
    return y_index.to(torch.int64)


def refuse_empty(**clouds: Tensor) -> None:
    """Raise InputError for what isn't [clouds, points, 3] with points."""
    for name, cloud in clouds.items():
        if cloud.ndim != 3 or cloud.shape[-1] != 3 or cloud.shape[1] == 0:
            raise InputError(
                f"chamfer: {name} has the shape {tuple(cloud.shape)}; [clouds, points, 3] with at least one point is "
                "allowed"
            )


def refuse_not_finite(**clouds: Tensor) -> None:
    """Raise InputError for coordinates on the CPU that are not finite; elsewhere NaN shows in what comes of them."""
    for name, cloud in clouds.items():
        if cloud.device.type == "cpu" and not torch.isfinite(cloud).all():
            raise InputError(
                f"chamfer: {name} has a coordinate that is NaN or infinite; finite points are allowed, so look "
                "where they come from"
            )
