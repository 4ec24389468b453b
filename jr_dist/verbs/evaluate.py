"""`jr-dist evaluate`: the paper's tables for trained runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jr_dist.verbs.verb import Verb

if TYPE_CHECKING:
    from jr_dist.config import EvaluateConfig


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    from jr_dist.cli_arguments import whole_number

    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run directories, all of one dataset")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="directory for tables and report")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), help="split measured [the first run's evaluate.split]"
    )
    parser.add_argument(
        "--num-points",
        metavar="N",
        type=whole_number(32),
        help="points of a shape in the chamfer [the first run's evaluate.num_points]",
    )
    parser.add_argument("--data", metavar="DATASET", type=Path, help="the dataset, where it has moved since training")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute [cpu]")
    parser.add_argument("--seed", metavar="N", type=whole_number(0), default=0, help="seed of the intervals [0]")


def _run(arguments: Namespace) -> None:
    settings = _evaluation_settings(arguments.runs[0])
    split = arguments.split or settings.split
    num_points = arguments.num_points or settings.num_points
    from jr_dist.evaluate.markdown import to_markdown
    from jr_dist.evaluate.protocol import check_output, evaluate
    from jr_dist.train.trained import load_run

    if arguments.dry_run:
        check_output(arguments.out)
        runs = [load_run(path) for path in arguments.runs]
        print(f"would measure {len(runs)} runs on split {split} at {num_points} points a shape:")
        print("\n".join(f"  {path}: {run.method}" for path, run in zip(arguments.runs, runs, strict=True)))
        print(f"would write tables.json, tables.md, tables.csv and report.html to {arguments.out}")
        return
    tables = evaluate(
        arguments.runs,
        split=split,
        num_points=num_points,
        out=arguments.out,
        device=arguments.device,
        seed=arguments.seed,
        data=arguments.data,
    )
    print(to_markdown(tables))
    print(f"report: {arguments.out / 'report.html'}")


def _evaluation_settings(run: Path) -> EvaluateConfig:
    from jr_dist.config import EvaluateConfig, load_config

    path = run / "config.yaml"
    return load_config(path).evaluate if path.is_file() else EvaluateConfig()


EVALUATE = Verb(
    "evaluate",
    "measure trained runs: the paper's tables, with intervals",
    "Measure runs on a split of their dataset, top-1 and with oracle retrieval, beside the baselines that need "
    "no training. Writes tables.json, tables.md, tables.csv and one offline report.html.",
    _arguments,
    _run,
)
