"""Where the object is in a photograph: by its alpha, or by the plain background that product photographs have.

The background is a smooth surface in CIELAB (a quadratic in the picture's coordinates: plain, gradient or vignette),
fitted robustly to the border and once more to all that it explains. From the border it is flooded inwards over pixels
that have its colour, and over darker ones of its hue where brightness changes slowly, which is what a soft shadow does
and an object's edge does not. What is left over is the object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from jr_dist.data.framing import OPAQUE
from jr_dist.errors import InputError

# Distances in CIELAB: 1 is the least that an eye sees, black and white are 100 apart.
LEAST_CONTRAST = 4.0  # what is nearer to the background than this belongs to it, however clean the picture
SHADOW_DEPTH = 45.0  # by which a shadow may be darker
SHADOW_SLOPE = 700.0  # lightness a side of the picture: what changes faster is an edge
LEAST_PLAIN = 0.65  # share of the border that a smooth background must explain
PLAIN_NOISE = 6.0  # spread about the smooth background from which it is no plain one
TINY, SMALL, LARGE = 0.0005, 0.005, 0.95  # shares of the picture: no mask, a doubtful one, and no mask again
DOUBTFUL = 0.6  # confidence below which a person should look at the mask

_BORDER = 0.02  # width of the frame that shows background alone, of the shorter side
_DOUBT = 0.7  # what each thing that is odd leaves of the confidence
_RIM = 0.008  # how far an edge's blur reaches, of the longer side
_REMEDY = "give a PNG whose alpha cuts out the object"


@dataclass(frozen=True)
class PhotoMask:
    """Which pixels show the object."""

    alpha: np.ndarray  # [H, W] uint8
    method: str  # "alpha": the file's own, or "background"
    confidence: float  # 0 to 1; 1 for the file's own
    warnings: tuple[str, ...] = ()


def mask_photo(rgba: np.ndarray) -> PhotoMask:
    """The mask of the one object in `rgba` (H, W, 4) uint8.

    An alpha that is nowhere below 128 counts as none; then the background must be plain, and the confidence tells how
    clearly the object stands out from it. Raises `InputError` where nothing stands out, or everything does.
    """
    warnings: list[str] = []
    if rgba[..., 3].min() < OPAQUE:
        alpha, method, confidence = rgba[..., 3], "alpha", 1.0
    else:
        solid, confidence = _by_background(rgba[..., :3], warnings)
        alpha, method = np.where(solid, np.uint8(255), np.uint8(0)), "background"
    solid = alpha >= OPAQUE
    share = solid.mean()
    if share < TINY:
        raise InputError(f"the mask is empty ({solid.sum()} pixels): nothing stands out from the background; {_REMEDY}")
    if method == "background" and share > LARGE:
        raise InputError(f"the mask covers {share:.0%} of the picture: no plain background is seen; {_REMEDY}")
    if share < SMALL:
        warnings.append(f"the object covers {share:.2%} of the picture: crop the photo to it")
        confidence *= _DOUBT if method == "background" else 1.0
    edges = (solid[0], solid[-1], solid[:, 0], solid[:, -1])
    if any(edge.any() for edge in edges):
        warnings.append("the object touches the border: what lies beyond is not seen, and size and place are off")
        confidence *= _DOUBT if method == "background" else 1.0
    if confidence < DOUBTFUL:
        warnings.append(f"the mask is doubtful (confidence {confidence:.2f}): look at it, or {_REMEDY}")
    return PhotoMask(alpha, method, round(float(confidence), 3), tuple(warnings))


def _by_background(rgb: np.ndarray, warnings: list[str]) -> tuple[np.ndarray, float]:
    """The object's pixels (H, W) bool and the confidence."""
    lab = _to_lab(rgb)
    terms = _quadratic(*rgb.shape[:2])
    border = np.zeros(rgb.shape[:2], bool)
    width = max(2, round(_BORDER * min(border.shape)))
    border[:width] = border[-width:] = border[:, :width] = border[:, -width:] = True
    slope = ndimage.gaussian_gradient_magnitude(lab[..., 0], 1.0) * max(border.shape)
    model, spread, plain = _fitted(lab, terms, border)
    _check_plain(plain, spread, warnings)
    background = _flooded(lab - terms @ model, slope, spread)
    if background.any():
        # The border says little of the middle: what was found there says more.
        model, spread, _ = _fitted(lab, terms, background)
        background = _flooded(lab - terms @ model, slope, spread)
    solid, other = _one_object(~background)
    distance = np.linalg.norm(lab - terms @ model, axis=-1)
    if other > 0.2:
        warnings.append("several objects are seen: the largest was taken")
    doubt = _DOUBT if other > 0.2 else 1.0
    return solid, _contrast(solid, distance, spread) * doubt * float(np.clip((plain - 0.5) / 0.3, 0, 1))


def _check_plain(plain: float, spread: float, warnings: list[str]) -> None:
    if plain < LEAST_PLAIN:
        raise InputError(f"the background is not plain: the border has no one colour or gradient; {_REMEDY}")
    if plain < 0.8:
        warnings.append(f"the background is not plain: only {plain:.0%} of the border agrees with a smooth one")
    if spread > PLAIN_NOISE:
        warnings.append(f"the background is not plain: it varies by {spread:.0f} about a smooth one (CIELAB)")


def _fitted(lab: np.ndarray, terms: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Coefficients (6, 3) of the smooth background that most pixels of `where` agree with, the spread of those that do,
    and their share."""
    rows = np.flatnonzero(where)[:: max(1, int(where.sum()) // 20_000)]
    values, basis = lab.reshape(-1, 3)[rows], terms.reshape(-1, terms.shape[-1])[rows]
    model = np.zeros((terms.shape[-1], 3), np.float32)
    model[0] = np.median(values, axis=0)
    limit = max(12.0, _spread(values - basis @ model) * 3)
    for _ in range(6):
        keep = np.linalg.norm(values - basis @ model, axis=1) < limit
        if keep.sum() < 10 * len(model):
            break
        model = np.linalg.lstsq(basis[keep], values[keep], rcond=None)[0]
        limit = max(LEAST_CONTRAST, 4 * _spread(values - basis @ model))
    residual = values - basis @ model
    spread = _spread(residual)
    return model, spread, float((np.linalg.norm(residual, axis=1) < max(LEAST_CONTRAST, 4 * spread)).mean())


def _spread(residual: np.ndarray) -> float:
    """A standard deviation that outliers don't move; residual (N, 3)."""
    return 1.4826 * float(np.median(np.linalg.norm(residual, axis=1))) / 1.538  # the median length of a unit Gaussian's


def _flooded(residual: np.ndarray, slope: np.ndarray, spread: float) -> np.ndarray:
    """Background (H, W): what joins the border, and what is seen through gaps of the object."""
    near = max(LEAST_CONTRAST, 4 * spread)
    reach = max(2, round(_RIM * max(slope.shape)))
    darker, hue = -residual[..., 0], np.linalg.norm(residual[..., 1:], axis=-1)
    same = np.linalg.norm(residual, axis=-1) < near
    shadow = (darker > 0) & (darker < SHADOW_DEPTH) & (hue < near + 0.1 * darker) & (slope < SHADOW_SLOPE)
    # Shadows are entered through wide openings alone: the edge of a grey object may fade for some pixels.
    wide = same | ndimage.binary_opening(shadow | same, iterations=reach)
    label, _ = _components(wide)
    at_border = np.unique(np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]]))
    outside = np.isin(label, at_border[at_border > 0])
    gaps, num_gaps = _components(same & ~outside)
    if num_gaps:
        # A gap has the background's own colour up to a sharp edge; a highlight on the object fades.
        index = np.arange(1, num_gaps + 1)
        area = ndimage.sum_labels(np.ones_like(slope), gaps, index)
        rim = ndimage.grey_dilation(gaps, size=3) * (gaps == 0)
        steep = ndimage.mean(ndimage.maximum_filter(slope, 2 * reach + 1) > SHADOW_SLOPE, rim, index)
        outside |= np.isin(gaps, index[(area > 1e-4 * slope.size) & (steep > 0.7)])
    return outside | _halo(residual, outside, reach)


def _halo(residual: np.ndarray, outside: np.ndarray, reach: int) -> np.ndarray:
    """Pixels within `reach` of the background that are more like it than like the object beside them: the edge of a
    shadow, and the colour that compression spreads."""
    measured: Any = ndimage.distance_transform_edt(~outside, return_indices=True)
    distance, nearest = measured
    contrast = np.linalg.norm(residual - residual[tuple(nearest)], axis=-1)
    strongest = ndimage.maximum_filter(contrast, 2 * reach + 1)
    return (distance <= reach) & (contrast < 0.4 * strongest)


def _one_object(solid: np.ndarray) -> tuple[np.ndarray, float]:
    """The largest component with the fragments inside its bounding box, and the next one's area as a share of it."""
    label, count = _components(solid, structure=np.ones((3, 3)))
    if not count:
        return solid, 0.0
    area = np.bincount(label.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(label)
    home = boxes[int(area.argmax())]
    inside = np.array([_meet(box, home) for box in boxes]) & (area > 1e-3 * area.max())
    apart = np.where(inside, 0, area).max(initial=0)
    return np.isin(label, 1 + np.flatnonzero(inside)), float(apart / area.max())


def _components(where: np.ndarray, structure: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Connected components numbered from 1, through the edges of pixels or as `structure` says, and how many."""
    found: Any = ndimage.label(where, structure)
    return found


def _meet(box: tuple[slice, ...], home: tuple[slice, ...]) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(box, home, strict=True))


def _contrast(solid: np.ndarray, distance: np.ndarray, spread: float) -> float:
    """How clearly the object's rim stands out, 0 to 1."""
    rim = solid & np.logical_not(ndimage.binary_erosion(solid, iterations=3))
    if not rim.any():
        return 0.0
    return float(np.clip(distance[rim] / (3 * max(LEAST_CONTRAST, 4 * spread)), 0, 1).mean())


def _quadratic(height: int, width: int) -> np.ndarray:
    """(H, W, 6) float32: 1, x, y, x², y², xy with x and y from -1 to 1."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1).astype(np.float32)


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB (H, W, 3) uint8, float32."""
    level = np.arange(256) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).astype(np.float32)
    # sRGB to XYZ, each row divided by the white point's X, Y and Z
    matrix = np.array([[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0178, 0.1098, 0.8730]], np.float32)
    xyz = linear[rgb] @ matrix.T
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)
