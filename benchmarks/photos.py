"""From a photograph to a deformed model: top-1 on ordinary test views and on renders that are unlike any of training.

    python benchmarks/photos.py RUN [--quick] [--csv FILE] [--json FILE]

RUN was trained on pictures in files. Each test target is shown in one view: as rendered; in materials and lights that
training never has; the same on backgrounds it never has (a wall that fades, a soft shadow, noise, JPEG), masked as
`fit` masks a photograph. Chamfer x100 of the nearest source, deformed, to the whole target; differences are paired,
with 95 % bootstrap intervals over targets. Of a photograph that is refused the picture with the true alpha counts
instead, and how many those are is printed. These are renders: no real photograph is among them.
"""

from __future__ import annotations

from dataclasses import fields, replace

import masks
import numpy as np
import torch
from harness import Record, finish, parser

from jr_dist.data.augment import plain_picture
from jr_dist.data.dataset import open_dataset, read_targets
from jr_dist.data.image_files import read_manifest
from jr_dist.data.render_shapes import open_shapes
from jr_dist.data.render_views import ViewSettings, render_view
from jr_dist.data.source_store import SourceStore
from jr_dist.errors import InputError
from jr_dist.evaluate.intervals import paired_interval
from jr_dist.evaluate.views import IMAGE, open_views
from jr_dist.geometry.boxes import deform
from jr_dist.geometry.chamfer import chamfer
from jr_dist.serve.photo_masks import mask_photo
from jr_dist.train.trained import load_run

BACKGROUNDS = ("gradient", "shadow", "everything")


def main() -> None:
    """Top-1 of a run on every kind of picture."""
    arguments = parser(__doc__)
    arguments.add_argument("run", metavar="RUN")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    model = load_run(chosen.run)
    dataset, categories = open_dataset(model.config.data.path), model.config.data.categories
    store, table = SourceStore.open(dataset, categories), read_targets(dataset, "test", categories)
    count = min(len(table), 12) if chosen.quick else len(table)
    views = open_views(dataset, "test", categories or dataset.categories, model.config.data, [IMAGE])
    manifest = read_manifest(dataset)
    assert views is not None and manifest is not None, "a run trained on pictures in files"
    how = ViewSettings(**{field.name: manifest["settings"][field.name] for field in fields(ViewSettings)})
    unseen = replace(how, materials="plausible", look="unseen", backend="embree", size=masks.SIZE)
    shapes, size = open_shapes(dataset, "test", categories), model.config.data.image_size
    shown: dict[str, list[np.ndarray]] = {"as trained": [], "unseen": [], **{kind: [] for kind in BACKGROUNDS}}
    refused = 0
    for row, name in enumerate(table.ids[:count]):
        shown["as trained"].append(views.shown([row], [name], IMAGE, 0)[0])
        rgba = render_view(shapes.shape(row), views.view(row, name, IMAGE, 0), unseen).rgba
        shown["unseen"].append(plain_picture(rgba, size))
        for kind in BACKGROUNDS:
            photo = masks.photograph(kind, rgba, np.random.default_rng([row, 2]))
            try:
                alpha = mask_photo(photo).alpha
                shown[kind].append(plain_picture(np.dstack([photo[..., :3], alpha]), size))
            except InputError:
                refused += 1
                shown[kind].append(shown["unseen"][-1])
    truth = torch.from_numpy(table.points[:count].copy())
    found = {}
    for kind, pictures in shown.items():
        given = torch.from_numpy(np.stack(pictures))
        rows = model.retrieval_distances(given).argmin(dim=1)
        centre, half = (values[:, 0] for values in model.deform(given, rows[:, None], store))
        found[kind] = 100 * chamfer(deform(store.geometry(rows), centre, half), truth).double().numpy()
    print(f"{chosen.run}: {count} targets, {refused} of {count * len(BACKGROUNDS)} photographs refused")
    records = []
    for kind, values in found.items():
        change = paired_interval(values, found["as trained"], np.random.default_rng(0), resamples=2000, level=0.95)
        print(f"{kind:12} {values.mean():.3f}  {change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]")
        records.append(Record(f"top-1 {kind}", float(values.mean()), "x100"))
    finish(records, chosen.json, chosen.csv)


if __name__ == "__main__":
    main()
