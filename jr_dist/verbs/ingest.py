"""`jr-dist ingest`: other people's meshes as a dataset."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jr_dist.locations import as_path, local_path
from jr_dist.verbs.output import check_new
from jr_dist.verbs.verb import Verb

if TYPE_CHECKING:
    from jr_dist.data.ingest_tasks import IngestTask
    from jr_dist.plan import Plan

FEW_FILES = 8  # that many are read sooner than Ray starts


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    from jr_dist.cli_arguments import add_settings, whole_number
    from jr_dist.config import ClusterConfig

    parser.add_argument("path", metavar="PATH", type=as_path, help="a mesh file, or a folder that is searched for them")
    parser.add_argument("out", metavar="OUT", help="directory for the dataset, new or empty")
    parser.add_argument(
        "--num-sources",
        metavar="S",
        type=whole_number(1),
        help="models that become sources, the rest are targets [a tenth, but 50 where that is fewer, at most 30 %%]",
    )
    parser.add_argument(
        "--split-seed", metavar="N", type=whole_number(0), default=0, help="decides sources and splits [0]"
    )
    parser.add_argument(
        "--index",
        metavar="CSV",
        type=Path,
        help="a table of files, categories, up axes and sizes [index.csv in PATH, where there is one]",
    )
    parser.add_argument("--partnet", action="store_true", help="PATH is a PartNet tree: its own segmentation is used")
    parser.add_argument(
        "--up",
        choices=("x", "y", "z", "-x", "-y", "-z", "auto"),
        default="y",
        help="the axis that points up where neither an index nor the format says it (GLB and glTF are y-up); "
        "auto guesses y or z, and errs [y]",
    )
    parser.add_argument("--category", metavar="NAME", help="of models that the index does not name [their folder's]")
    parser.add_argument(
        "--num-points", metavar="N", type=whole_number(32), default=2048, help="points stored of a shape [2048]"
    )
    parser.add_argument(
        "--file-seconds",
        metavar="S",
        type=whole_number(1),
        default=300,
        help="a file that takes longer is left out [300]",
    )
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help="leave out contact_sheet.png")
    parser.add_argument(
        "--local", action="store_true", help="read one file after the other in this process, without Ray"
    )
    add_settings(parser, "cluster", ClusterConfig, {})


def _run(arguments: Namespace) -> None:
    from jr_dist.cli_arguments import given_settings
    from jr_dist.config import load_config
    from jr_dist.data.ingest import ingest
    from jr_dist.data.ingest_tasks import find_tasks
    from jr_dist.plan import print_plan
    from jr_dist.progress import progress

    folder = local_path(arguments.path, "PATH")
    # The paths are not used: a configuration without them would be refused.
    cluster = load_config(None, {"data.path": "-", "run.path": "-", **given_settings(arguments)}).cluster
    find = {name: getattr(arguments, name) for name in ("index", "up", "category", "partnet")}
    out = None if "://" in arguments.out else Path(arguments.out)
    tasks, _ = find_tasks(folder, leave_out=out, **find)
    if arguments.dry_run:
        check_new(arguments.out)
        print_plan(_plan(arguments, tasks), cluster)
        return
    with progress("ingest", len(tasks), unit="file") as state:
        report = ingest(
            folder,
            arguments.out,
            num_sources=arguments.num_sources,
            split_seed=arguments.split_seed,
            num_points=arguments.num_points,
            file_seconds=arguments.file_seconds,
            pictures=arguments.pictures,
            cluster=cluster,
            local=_is_local(arguments, tasks),
            progress=state,
            **find,
        )
    print(report.summary())
    print(f"wrote {arguments.out}")


def _is_local(arguments: Namespace, tasks: Sequence[IngestTask]) -> bool:
    return arguments.local or len(tasks) <= FEW_FILES


def _plan(arguments: Namespace, tasks: Sequence[IngestTask]) -> Plan:
    from jr_dist.estimates import MB, MEASURED, dataset_bytes, ingesting_seconds, shared_by
    from jr_dist.placement import Ask, Node, of_ingesting, room
    from jr_dist.plan import Amounts, Plan

    paths = [Path(task.path) for task in tasks]
    sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]
    local, ask = _is_local(arguments, tasks), of_ingesting(len(tasks))

    def asks(nodes: Sequence[Node]) -> tuple[Ask, ...]:
        return () if local else (ask,)

    def seconds(nodes: Sequence[Node]) -> Amounts:
        at_once = 1 if local else min(len(tasks), max(1, room(nodes, ask)))
        start = 0.0 if local else MEASURED.ray_start_s
        reading = shared_by(ingesting_seconds(sizes), at_once)
        return Amounts((("start", start), (f"reading {sum(sizes) / MB:.3g} MB", reading)), f"{at_once} at a time")

    process = MEASURED.process_mb * MB
    workers = () if local else (("a task, as many as run", process), ("Ray", MEASURED.ray_mb * MB))
    counts = sorted(Counter(task.category for task in tasks).items())
    return Plan(
        verb="ingest",
        lines=(("models", f"{len(tasks)}, {sum(sizes) / MB:.3g} MB"),),
        asks=asks,
        memory=Amounts((("this process", process), *workers)),
        disk=Amounts(
            (
                ("points", dataset_bytes(len(tasks), arguments.num_points)),
                ("meshes of sources, at most", float(sum(sizes))),
            )
        ),
        seconds=seconds,
        end=(
            f"would read {len(tasks)} models at {arguments.path} and write a dataset to {arguments.out}:",
            *(f"  {name}: {count}" for name, count in counts),
        ),
        remedy="add machines, or set --local",
    )


INGEST = Verb(
    "ingest",
    "make a dataset of your own meshes",
    "Read GLB, glTF, OBJ, STL, PLY and OFF files into a dataset. Parts are the file's own nodes or groups; a "
    "mesh that names none is segmented. Materials, textures and names are kept. An index.csv beside the files "
    "may name categories, up axes and sizes. A file that can't be used is listed with its reason and never "
    "stops the rest.",
    _arguments,
    _run,
)
