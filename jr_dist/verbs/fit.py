"""`jr-dist fit`: source models found and deformed for scans, meshes and photos."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jr_dist.locations import as_path, local_path
from jr_dist.verbs.verb import Verb

if TYPE_CHECKING:
    from jr_dist.plan import Plan
    from jr_dist.serve.database import Database


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    from jr_dist.cli_arguments import whole_number

    parser.add_argument("run", metavar="RUN", type=as_path, help="a run directory, or the URI of one")
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        type=as_path,
        help="meshes, point clouds, photos, folders",
    )
    parser.add_argument("--out", metavar="DIR", type=as_path, required=True, help="directory for the results")
    parser.add_argument("--top-k", metavar="K", type=whole_number(1), default=5, help="candidates deformed [5]")
    parser.add_argument("--category", metavar="NAME", help="only sources of this category")
    parser.add_argument(
        "--up",
        choices=("x", "y", "z", "-x", "-y", "-z"),
        default="y",
        help="the axis that points up in the inputs [y]",
    )
    parser.add_argument("--index", metavar="CSV", type=as_path, help="a table of the inputs' up axes and rotations")
    parser.add_argument("--num-points", metavar="N", type=whole_number(32), default=2048, help="points matched [2048]")
    parser.add_argument("--refine", action="store_true", help="improve each deformation by IDO; the best is kept")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="the inputs show a part of their shapes: what they hide counts for nothing",
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="the shapes are symmetric, left and right: refine to the mirror image of what is seen too",
    )
    parser.add_argument("--pictures", action="store_true", help="write picture.png beside each result")
    parser.add_argument("--seed", metavar="N", type=whole_number(0), default=0, help="seed of the sampled points [0]")
    parser.add_argument(
        "--data", metavar="DATASET", type=as_path, help="the dataset, where it has moved since training"
    )


def _run(arguments: Namespace) -> None:
    from jr_dist.plan import print_plan
    from jr_dist.serve.database import open_database
    from jr_dist.serve.fit import check_photos, fit, result_folders
    from jr_dist.serve.inputs import find_inputs
    from jr_dist.serve.matching import How

    inputs = [local_path(path, "INPUT") for path in arguments.inputs]
    out = local_path(arguments.out, "--out")
    index = None if arguments.index is None else local_path(arguments.index, "--index")
    if arguments.dry_run:
        how = How(arguments.top_k, arguments.refine, arguments.partial, arguments.mirror)
        found = find_inputs(inputs, up=arguments.up, index=index, out=out)
        check_photos(found, how)
        folders = result_folders(found, out)
        database = open_database(
            arguments.run,
            data=arguments.data,
            category=arguments.category,
            num_points=arguments.num_points,
            top_k=arguments.top_k,
            refine=arguments.refine,
        )
        places = [f"  {entry.path} -> {folder}" for entry, folder in zip(found, folders, strict=True)]
        print_plan(_plan(arguments, database, places), None)
        return
    results = fit(
        arguments.run,
        inputs,
        out=out,
        top_k=arguments.top_k,
        up=arguments.up,
        index=index,
        category=arguments.category,
        num_points=arguments.num_points,
        refine=arguments.refine,
        partial=arguments.partial,
        mirror=arguments.mirror,
        pictures=arguments.pictures,
        seed=arguments.seed,
        data=arguments.data,
    )
    for result in results:
        best = result.candidates[0]
        if result.photo is not None:
            view = result.photo.viewpoint
            print(
                f"{result.input}: {best.source}, seen from azimuth {view.azimuth:.0f}, elevation {view.elevation:.0f} "
                f"(silhouettes agree by {view.iou:.2f}), {result.path / best.glb}, {result.path / result.photo.overlay}"
            )
            continue
        name, before, after = best.distances(partial=arguments.partial)
        print(f"{result.input}: {best.source}, {name} x100 {before:.3f} -> {after:.3f}, {result.path / best.glb}")


def _plan(arguments: Namespace, database: Database, places: Sequence[str]) -> Plan:
    from jr_dist.estimates import MB, MEASURED, fitting_seconds
    from jr_dist.plan import Amounts, Plan, in_this_process

    manifest = database.store.dataset.manifest
    mesh = sum(file.bytes for file in manifest.table_files("sources")) / max(1, manifest.counts["sources"])
    candidates = len(places) * min(arguments.top_k, len(database.rows))
    points = 14.0 * manifest.num_points * len(database.rows)
    seconds = fitting_seconds(len(places), arguments.top_k, refine=arguments.refine)
    return Plan(
        verb="fit",
        lines=(("run", str(arguments.run)), ("candidates", f"{candidates} of {len(places)} inputs")),
        asks=in_this_process,
        memory=Amounts((("this process", MEASURED.process_mb * MB), ("sources", points))),
        disk=Amounts((("GLB files", candidates * mesh),)),
        seconds=lambda nodes: Amounts(((f"{len(places)} inputs", seconds),)),
        end=(f"would fit {len(places)} inputs to {len(database.rows)} sources by {arguments.run}:", *places),
    )


FIT = Verb(
    "fit",
    "find and deform the best source models for a scan, a mesh or a photo",
    "For each input (a mesh as GLB, glTF, OBJ, STL, PLY or OFF, a point cloud as PLY, XYZ, TXT, CSV, PTS, ASC, NPY or "
    "NPZ, a photo where the run was trained on pictures, or a folder of them) find the best source models and deform "
    "them. Writes DIR/STEM/ with result.json and rank-1.glb ...: one named node a part, in the frame and units of the "
    "input. Of a photo also mask.png and overlay.png.",
    _arguments,
    _run,
)
