"""Pictures a second: one processor with each backend, then the whole pipeline through Ray Data with 1 and 2 actors.

    python benchmarks/render.py [--quick] [--csv FILE] [--json FILE]

Pictures are 224 x 224, with edges smoothed, of procedural furniture (about 700 triangles) and of dense balls (82,000).
One processor: rendering alone, the shape loaded. `to PNG` adds the PNG file; `to file` is all that the job does for a
picture: the shape drawn again and compared with its points, the picture, the PNG, Parquet. The pipeline is what
`jr-dist render` does when its actors have started. The peer of moderngl is embree, of two actors one.

The limit, and the peer of a picture: Embree alone is asked for the first face that a ray through each pixel meets, the
rays made beforehand, and for nothing else: no colour, light, smoothed edge, depth or part.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import trimesh
from harness import Record, compared, finish, interleaved, machine, parser

from jr_dist.cluster import connect
from jr_dist.config import ClusterConfig
from jr_dist.data.dataset import open_dataset
from jr_dist.data.part_mesh import PartMesh
from jr_dist.data.ray_casting import camera_rays
from jr_dist.data.render_images import FileRenderer, RenderPlan, plan_images
from jr_dist.data.render_shapes import RenderShape
from jr_dist.data.render_views import ViewSettings, png, render_view, view_camera
from jr_dist.data.surface import surface_of
from jr_dist.data.synthesize.generate import synthesize
from jr_dist.errors import InputError

VIEWS = 4
PEER = {"embree": "embree", "rays alone": "Embree, one ray a pixel and nothing else"}


def dense() -> RenderShape:
    """A shape of as many triangles as a detailed model has."""
    ball = trimesh.creation.icosphere(subdivisions=6, radius=0.7)
    return RenderShape("ball", ("ball",), surface_of(PartMesh(("ball",), ((ball,),))))


def backends() -> dict[str, str]:
    """Those that work here, with what draws."""
    from jr_dist.data.gl_faces import renderer_name

    try:
        return {"embree": "Embree", "moderngl": renderer_name()}
    except InputError as error:
        print(f"moderngl is left out: {error}")
        return {"embree": "Embree"}


def drawing(shapes: list[RenderShape], settings: ViewSettings) -> Callable[[], object]:
    """Render a few views of each shape."""
    return lambda: [render_view(shape, view, settings) for shape in shapes for view in range(VIEWS)]


def rays_alone(shapes: list[RenderShape], settings: ViewSettings) -> Callable[[], object]:
    """Ask Embree for the first face behind every pixel of the same views, and do nothing else."""
    asked = [
        (shape.surface.scene, camera.position(), camera_rays(camera, settings.size).astype(np.float32))
        for shape in shapes
        for camera in (view_camera(shape.id, view, settings) for view in range(VIEWS))
    ]
    return lambda: [scene.first_hits(*rays) for scene, *rays in asked]


def one_processor(plan: RenderPlan, rounds: int, num_shapes: int) -> list[Record]:
    """Rates with the processor to itself: processor time, as `harness.clock` has it."""
    furniture = [plan.shapes["train"].shape(row) for row in range(num_shapes)]
    records = []
    settings = {name: replace(plan.view_settings, backend=name) for name in backends()}
    for kind, shapes in (("furniture", furniture), ("dense", [dense()])):
        contenders = {name: drawing(shapes, own) for name, own in settings.items()}
        contenders["rays alone"] = rays_alone(shapes, plan.view_settings)
        seconds = interleaved(contenders, rounds)
        count = len(shapes) * VIEWS
        for name, own in seconds.items():
            if name == "rays alone":
                continue
            peer = "embree" if name != "embree" else "rays alone"
            limit = (
                {"limit": count / median(seconds["rays alone"]), "limit_is": "rays alone"} if name == "embree" else {}
            )
            found = compared(f"render.{kind}.{name}", "/s", PEER[peer], own, seconds[peer], **limit)
            records.append(replace(found, value=count / found.value))
    pictures = [render_view(shape, 0, plan.view_settings).rgba for shape in furniture]
    task = plan.tasks[0]
    draw = drawing(furniture, plan.view_settings)
    seconds = interleaved(
        {
            "png": lambda: [png(picture) for picture in pictures * VIEWS],
            "picture": draw,
            "file": lambda: FileRenderer(plan)(task),
        },
        rounds,
    )
    count = len(furniture) * VIEWS
    both = [one + two for one, two in zip(seconds["png"], seconds["picture"])]
    records.append(Record("render.furniture.to_png", count / median(both), "/s"))
    records.append(Record("render.furniture.to_file", task.num_pictures / median(seconds["file"]), "/s"))
    return records


def pipeline(plan: RenderPlan, num_workers: int) -> float:
    """Pictures a second through Ray Data from the first file that is ready to the last; wall time."""
    from jr_dist.data.render_job import render_in_parallel

    how = {"backend": plan.view_settings.backend, "num_workers": num_workers, "cluster": ClusterConfig()}
    files = render_in_parallel(FileRenderer(plan), plan.tasks, **how)
    ready = [(time.perf_counter(), task.num_pictures) for task, _ in files]
    # The first files are ready together: what they took lies before the clock starts.
    first = ready[num_workers - 1][0]
    return sum(count for _, count in ready[num_workers:]) / (ready[-1][0] - first)


def main() -> None:
    """Measure one processor, then the pipeline."""
    arguments = parser(__doc__).parse_args()
    rounds, num_targets = (3, 96) if arguments.quick else (9, 640)
    print(f"{machine(1)}; {', '.join(f'{name}: {what}' for name, what in backends().items())}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dataset"
        categories = ("cabinet", "chair", "table")
        synthesize(path, num_sources=3, num_targets=num_targets, categories=categories, seed=0, num_points=2048)
        plan = plan_images(open_dataset(path), ViewSettings(), num_views=24, tables=["train"])
        records = one_processor(plan, rounds, num_shapes=4 if arguments.quick else 12)
        with connect(ClusterConfig(num_cpus=2, object_store_mb=256)):
            one, two = pipeline(plan, 1), pipeline(plan, 2)
    records += [
        Record("render.pipeline.1_actor", one, "/s"),
        Record("render.pipeline.2_actors", two, "/s", "1 actor", two / one),
    ]
    finish(records, arguments.json, arguments.csv)


if __name__ == "__main__":
    main()
