"""`jr-dist render`: pictures of a dataset's shapes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jr_dist.verbs.verb import Verb

if TYPE_CHECKING:
    from jr_dist.data.render_images import RenderPlan
    from jr_dist.plan import Plan

TABLES = ("sources", "train", "val", "test")


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    from jr_dist.cli_arguments import add_settings, names, whole_number
    from jr_dist.config import ClusterConfig

    parser.add_argument("dataset", metavar="DATASET", help="the dataset; the pictures go to DATASET/images")
    parser.add_argument(
        "--num-views", metavar="N", type=whole_number(1), default=24, help="pictures of each shape [24]"
    )
    parser.add_argument("--size", metavar="N", type=whole_number(1), default=224, help="pixels a side [224]")
    parser.add_argument(
        "--backend", default="embree", help="embree: on processors; moderngl: OpenGL, on a GPU or Mesa [embree]"
    )
    parser.add_argument(
        "--seed", metavar="N", type=whole_number(0), default=0, help="the same seed, the same bytes [0]"
    )
    parser.add_argument(
        "--cameras", metavar="NAME", default="product", help="product: as shops photograph; around: all sides [product]"
    )
    parser.add_argument(
        "--materials", default="own", help="own: the models', plausible ones where they have none; plausible [own]"
    )
    parser.add_argument(
        "--look", default="train", help="train or unseen: two families of materials and lights that share none [train]"
    )
    parser.add_argument("--parts", action="store_true", help="also a picture of the parts, 1 + the part of each pixel")
    parser.add_argument("--depth", action="store_true", help="also a picture of the depth, 16-bit")
    parser.add_argument(
        "--split", metavar="A,B", type=names(*TABLES), default=TABLES, help="of sources, train, val, test [all]"
    )
    parser.add_argument("--categories", metavar="A,B", type=names(), help="categories [all]")
    parser.add_argument(
        "--models", metavar="FOLDER", type=Path, help="where the ingested models lie now, if they were moved"
    )
    parser.add_argument(
        "--num-workers",
        metavar="N",
        type=whole_number(0),
        help="Ray actors, a processor each; 0 renders in this process [all processors; 0 for few pictures]",
    )
    add_settings(parser, "cluster", ClusterConfig, {})


def _run(arguments: Namespace) -> None:
    from jr_dist.cli_arguments import given_settings
    from jr_dist.config import load_config
    from jr_dist.data.dataset import count_rows, open_dataset
    from jr_dist.data.render_images import CONTACT_SHEET, FEW_PICTURES, plan_images, render_images
    from jr_dist.data.render_views import ViewSettings
    from jr_dist.plan import print_plan
    from jr_dist.progress import progress

    # The paths are not used: a configuration without them would be refused.
    cluster = load_config(None, {"data.path": "-", "run.path": "-", **given_settings(arguments)}).cluster
    names = ("size", "seed", "cameras", "materials", "look", "backend")
    settings = ViewSettings(**{name: getattr(arguments, name) for name in names})
    dataset = open_dataset(arguments.dataset)
    # Who names no split gets those that have shapes.
    tables = [x for x in arguments.split if arguments.split != TABLES or count_rows(dataset, x, arguments.categories)]
    plan = plan_images(
        dataset,
        settings,
        num_views=arguments.num_views,
        tables=tables,
        categories=arguments.categories,
        parts=arguments.parts,
        depth=arguments.depth,
        models=arguments.models,
    )
    total = sum(task.num_pictures for task in plan.tasks)
    missing = sum(task.num_pictures for task in plan.missing)
    num_workers = arguments.num_workers
    if num_workers is None and missing <= FEW_PICTURES:
        num_workers = 0
    if arguments.dry_run:
        print_plan(_plan(plan, num_workers, total), cluster)
        return
    with progress("render", total, done=total - missing, unit="picture") as state:
        render_images(plan, num_workers=num_workers, cluster=cluster, advance=state.advance)
    kept = f", {total - missing} were there" if missing < total else ""
    print(f"rendered {missing} pictures{kept}; {dataset.path}/{CONTACT_SHEET} shows some")


def _plan(plan: RenderPlan, num_workers: int | None, total: int) -> Plan:
    from jr_dist.estimates import MB, MEASURED, rendering_seconds, shared_by
    from jr_dist.placement import Ask, Node, of_rendering, room
    from jr_dist.plan import Amounts, Plan

    size, backend = plan.view_settings.size, plan.view_settings.backend
    counts = Counter[str]()
    for task in plan.missing:
        counts[task.table] += task.num_pictures
    missing, files = counts.total(), len(plan.missing)

    def asks(nodes: Sequence[Node]) -> tuple[Ask, ...]:
        return () if num_workers == 0 else (of_rendering(min(num_workers or files, files), backend, nodes),)

    def seconds(nodes: Sequence[Node]) -> Amounts:
        asked = asks(nodes)
        at_once = min(asked[0].count, max(1, room(nodes, asked[0]))) if asked else 1
        start = MEASURED.ray_start_s if asked else 0.0
        drawing = shared_by(rendering_seconds(missing, size), at_once)
        return Amounts((("start", start), (f"{missing} pictures", drawing)), f"by {at_once} at a time")

    process = MEASURED.process_mb * MB
    workers = (("a renderer, as many as run", process), ("Ray", MEASURED.ray_mb * MB)) if num_workers != 0 else ()
    kinds = 1 + plan.parts + plan.depth
    return Plan(
        verb="render",
        lines=(
            ("pictures", f"{missing} of {total}, the others are there"),
            ("backend", f"{backend}, views from {plan.view_settings.cameras}, look {plan.view_settings.look}"),
        ),
        asks=asks,
        memory=Amounts((("this process", process), *workers)),
        disk=Amounts((("PNG files", MEASURED.picture_bytes_pixel * missing * size**2 * kinds),)),
        seconds=seconds,
        end=(
            f"would render {missing} of {total} pictures of {size} x {size} pixels:",
            *(f"  {table}: {counts[table]}" for table in plan.shapes),
        ),
        remedy="add machines, or set --num-workers 0",
    )


RENDER = Verb(
    "render",
    "make pictures of a dataset's shapes",
    "Render every source and target from several viewpoints, with their own or plausible materials, into "
    "DATASET/images. The same seed gives the same bytes however many actors render; a rerun renders only what is "
    "missing.",
    _arguments,
    _run,
)
