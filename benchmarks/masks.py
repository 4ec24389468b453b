"""How well photographs are masked: renders of procedural furniture on backgrounds, against their own alpha.

    python benchmarks/masks.py [--quick] [--csv FILE] [--json FILE] [--sheet FILE]

For each kind of background: the mean and the lowest tenth of the intersection over union, the share of masks that reach
0.9, the confidence, and how many of those with a confidence of 0.6 or more reach 0.9.
"""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
from harness import Record, finish, parser
from PIL import Image
from scipy import ndimage

from jr_dist.data.part_mesh import concatenated, from_glb
from jr_dist.data.ray_casting import Camera
from jr_dist.data.render import contact_sheet, render_mesh
from jr_dist.data.synthesize.generate import make_source
from jr_dist.errors import InputError
from jr_dist.serve.photo_masks import DOUBTFUL, mask_photo

SIZE = 384
# Materials of furniture: woods, white, greys, black, fabrics.
COLOURS = [(166, 120, 80), (94, 62, 40), (205, 170, 125), (240, 240, 238), (150, 150, 152), (60, 62, 66), (25, 25, 27)]
COLOURS += [(140, 40, 45), (45, 70, 110), (90, 110, 80), (200, 180, 150)]


def render(index: int, rng: np.random.Generator) -> np.ndarray:
    """One piece of furniture from somewhere in front of it, RGBA; the number of materials is drawn as well."""
    source = make_source(7, ("cabinet", "chair", "table")[index % 3], index, 64)
    vertices, faces, part_of_face = concatenated(from_glb(source.mesh_glb))
    colours = np.array(COLOURS)[rng.integers(0, len(COLOURS), 2)][rng.integers(0, 2, source.num_parts)]
    camera = Camera(float(rng.uniform(-70, 70)), float(rng.uniform(5, 35)), float(rng.uniform(3, 5)), 40)
    return render_mesh(
        vertices, faces, colours[part_of_face].astype(np.uint8), camera=camera, size=SIZE, samples=2
    ).colour


def _plain(rng: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(rng.uniform(200, 255, 3) if rng.random() < 0.5 else 255.0, (SIZE, SIZE, 3)).copy()


def _gradient(rng: np.random.Generator) -> np.ndarray:
    along = np.linspace(0, 1, SIZE)[:, None, None]
    return np.broadcast_to(
        (1 - along) * rng.uniform(180, 255, 3) + along * rng.uniform(120, 255, 3), (SIZE, SIZE, 3)
    ).copy()


def _vignette(rng: np.random.Generator) -> np.ndarray:
    at = np.linspace(-1, 1, SIZE)
    return _plain(rng) * (1 - 0.3 * (at[:, None, None] ** 2 + at[None, :, None] ** 2))


def _shadow(background: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """A soft shadow on the floor, below and beside the object."""
    rows = np.flatnonzero(alpha.any(axis=1))
    height = rows[-1] - rows[0] + 1
    foot = np.zeros(alpha.shape)
    foot[rows[-1] - height // 5 : rows[-1] + 1] = alpha[rows[-1] - height // 5 : rows[-1] + 1] > 0
    depth = ndimage.gaussian_filter(ndimage.shift(foot, (SIZE / 80, SIZE / 40)), SIZE / 40)
    return background * (1 - 0.5 * np.clip(depth, 0, 1))[..., None]


def _jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def photograph(kind: str, rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`rgba` on a background of that kind, (SIZE, SIZE, 4) uint8, opaque."""
    background = {"gradient": _gradient, "vignette": _vignette}.get(kind, _plain)(rng)
    if kind in ("shadow", "everything"):
        background = _shadow(background, rgba[..., 3])
    alpha = rgba[..., 3:] / 255.0
    rgb = rgba[..., :3] * alpha + background * (1 - alpha)
    if kind in ("noise", "everything"):
        rgb = rgb + rng.normal(0, 4, rgb.shape)
    rgb = np.rint(np.clip(rgb, 0, 255)).astype(np.uint8)
    if kind in ("JPEG", "everything"):
        rgb = _jpeg(rgb, 60)
    return np.dstack([rgb, np.full((SIZE, SIZE), 255, np.uint8)])


KINDS = ("plain", "gradient", "vignette", "shadow", "noise", "JPEG", "everything")


def overlap(kind: str, rgba: np.ndarray, rng: np.random.Generator) -> tuple[float, float, np.ndarray, np.ndarray]:
    """IoU and confidence of one photograph (0 and 0 where it is refused), the photograph and its mask."""
    photo = photograph(kind, rgba, rng)
    true = rgba[..., 3] >= 128
    try:
        mask = mask_photo(photo)
    except InputError:
        return 0.0, 0.0, photo, np.zeros_like(true)
    found = mask.alpha >= 128
    return float((found & true).sum() / (found | true).sum()), mask.confidence, photo, found


def main() -> None:
    """Masks of every kind of background."""
    arguments = parser(__doc__)
    arguments.add_argument("--sheet", type=Path, metavar="PNG", help="the worst masks of each kind, to look at")
    chosen = arguments.parse_args()
    renders = [render(index, np.random.default_rng(index)) for index in range(24 if chosen.quick else 120)]
    records, worst, labels = [], [], []
    print(f"{'background':12} {'IoU':>6} {'worst 10 %':>10} {'>= 0.9':>7} {'confident':>10} {'right of these':>15}")
    for kind in KINDS:
        started = time.process_time()
        found = [overlap(kind, rgba, np.random.default_rng([index, 1])) for index, rgba in enumerate(renders)]
        seconds = (time.process_time() - started) / len(renders)
        iou, confidence = (np.array([entry[column] for entry in found]) for column in (0, 1))
        confident = confidence >= DOUBTFUL
        low, share, trusted = np.quantile(iou, 0.1), (iou >= 0.9).mean(), confident.mean()
        right = (iou[confident] >= 0.9).mean() if confident.any() else float("nan")
        print(f"{kind:12} {iou.mean():6.3f} {low:10.3f} {share:7.0%} {trusted:10.0%} {right:15.0%}")
        records += [Record(f"mask {kind}: IoU", float(iou.mean()), ""), Record(f"mask {kind}: time", seconds, "s")]
        for index in np.argsort(iou)[:6]:
            photo, mask = found[index][2], found[index][3]
            worst.append(np.where(mask[..., None], photo[..., :3], (photo[..., :3] * 0.15).astype(np.uint8)))
            labels.append(f"{kind}: IoU {iou[index]:.2f}, confidence {confidence[index]:.2f}")
    if chosen.sheet:
        contact_sheet(worst, labels, columns=6).save(chosen.sheet)
    finish(records, chosen.json, chosen.csv)


if __name__ == "__main__":
    main()
