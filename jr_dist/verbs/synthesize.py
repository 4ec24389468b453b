"""`jr-dist synthesize`: procedural furniture as a dataset."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jr_dist.verbs.output import check_new
from jr_dist.verbs.verb import Verb

if TYPE_CHECKING:
    from jr_dist.plan import Plan


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    from jr_dist.cli_arguments import names, whole_number

    parser.add_argument("out", metavar="OUT", help="directory for the dataset, new or empty")
    parser.add_argument("--num-sources", metavar="S", type=whole_number(1), default=60, help="source models [60]")
    parser.add_argument(
        "--num-targets",
        metavar="T",
        type=whole_number(1),
        default=600,
        help="targets of all splits together, 80/10/10 [600]",
    )
    parser.add_argument(
        "--categories",
        metavar="A,B",
        type=names("chair", "table", "cabinet"),
        default=("chair", "table", "cabinet"),
        help="categories, in equal numbers [chair,table,cabinet]",
    )
    parser.add_argument(
        "--seed", metavar="N", type=whole_number(0), default=0, help="the same seed, the same bytes [0]"
    )
    parser.add_argument(
        "--num-points", metavar="N", type=whole_number(32), default=2048, help="points stored of a shape [2048]"
    )


def _run(arguments: Namespace) -> None:
    from jr_dist.data.synthesize.generate import synthesize
    from jr_dist.plan import print_plan
    from jr_dist.progress import progress

    what = (
        f"{arguments.num_sources} sources and {arguments.num_targets} targets "
        f"({', '.join(arguments.categories)}), {arguments.num_points} points each, seed {arguments.seed}"
    )
    if arguments.dry_run:
        check_new(arguments.out)
        print_plan(_plan(arguments, what), None)
        return
    with progress("synthesize", arguments.num_sources + arguments.num_targets, unit="shape") as state:
        synthesize(
            arguments.out,
            num_sources=arguments.num_sources,
            num_targets=arguments.num_targets,
            categories=arguments.categories,
            seed=arguments.seed,
            num_points=arguments.num_points,
            progress=state,
        )
    print(f"wrote {what} to {arguments.out}")


def _plan(arguments: Namespace, what: str) -> Plan:
    from jr_dist.estimates import MB, MEASURED, dataset_bytes
    from jr_dist.plan import Amounts, Plan, in_this_process

    shapes, points = arguments.num_sources + arguments.num_targets, arguments.num_points
    seconds = 1e-3 * MEASURED.synthesize_ms * shapes * max(1.0, points / 2048)
    return Plan(
        verb="synthesize",
        lines=(("shapes", f"{arguments.num_sources} sources, {arguments.num_targets} targets"),),
        asks=in_this_process,
        memory=Amounts((("this process", MEASURED.process_mb * MB),)),
        disk=Amounts((("the dataset", dataset_bytes(shapes, points)),)),
        seconds=lambda nodes: Amounts((("drawing and writing", seconds),)),
        end=(f"would write {what} to {arguments.out}",),
    )


SYNTHESIZE = Verb(
    "synthesize",
    "make a dataset of procedural furniture",
    "Write a dataset of chairs, tables and cabinets whose part structures really differ. Targets are drawn "
    "independently of sources, so many have a structure that no source has.",
    _arguments,
    _run,
)
