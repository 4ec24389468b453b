"""`jr-dist evaluate`: the paper's tables for trained runs."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jr_dist.locations import AnyPath, as_path
from jr_dist.verbs.verb import Verb

if TYPE_CHECKING:
    from jr_dist.config import Config


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    from jr_dist.cli_arguments import whole_number

    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=as_path, help="run directories or URIs, all of one dataset"
    )
    parser.add_argument("--out", metavar="DIR", type=as_path, required=True, help="directory for tables and report")
    parser.add_argument(
        "--split", choices=("train", "val", "test"), help="split measured [the first run's evaluate.split]"
    )
    parser.add_argument(
        "--num-points",
        metavar="N",
        type=whole_number(32),
        help="points of a shape in the chamfer [the first run's evaluate.num_points]",
    )
    parser.add_argument(
        "--data", metavar="DATASET", type=as_path, help="the dataset, where it has moved since training"
    )
    parser.add_argument(
        "--protocols",
        metavar="NAME,...",
        help="what is observed of a target: full, partial-25, -50, -75, view-25, -50, -75, noise-1, noise-3, up, yaw; "
        "of runs trained on pictures: image, image-front, -side, -back, image-unseen "
        "[the first run's evaluate.protocols]",
    )
    parser.add_argument(
        "--ido", action=BooleanOptionalAction, default=None, help="rows with IDO too [the first run's evaluate.ido]"
    )
    parser.add_argument(
        "--num-workers",
        metavar="N",
        type=whole_number(0),
        help="actors of Ray that measure; 0 = this process [the first run's evaluate.num_workers]",
    )
    parser.add_argument(
        "--num-gpus",
        metavar="X",
        type=float,
        help="GPUs, or the share of one, of each of them; above 0 they compute there [the first run's "
        "evaluate.num_gpus]",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute [cpu]")
    parser.add_argument("--seed", metavar="N", type=whole_number(0), default=0, help="seed of the intervals [0]")


def _run(arguments: Namespace) -> None:
    from jr_dist.config import ClusterConfig, EvaluateConfig
    from jr_dist.data.dataset import open_dataset
    from jr_dist.evaluate.dry_run import MeasuringWork, plan_measuring
    from jr_dist.plan import print_plan
    from jr_dist.train.checks import require_cuda

    config = _settings(arguments.runs[0])
    settings = EvaluateConfig() if config is None else config.evaluate
    split = arguments.split or settings.split
    num_points = arguments.num_points or settings.num_points
    protocols = arguments.protocols.split(",") if arguments.protocols else settings.protocols
    num_workers = settings.num_workers if arguments.num_workers is None else arguments.num_workers
    num_gpus = (settings.num_gpus if arguments.num_gpus is None else arguments.num_gpus) if num_workers else 0.0
    device = "cuda" if num_gpus > 0 else arguments.device
    if device == "cuda" and not num_workers:
        require_cuda("--device")
    from jr_dist.evaluate.markdown import to_markdown
    from jr_dist.evaluate.protocol import check_output, evaluate
    from jr_dist.evaluate.views import check_all_protocols, check_suits
    from jr_dist.train.trained import load_run

    if arguments.dry_run:
        check_output(arguments.out)
        check_all_protocols(protocols)
        runs = [load_run(path) for path in arguments.runs]
        for path, run in zip(arguments.runs, runs, strict=True):
            check_suits(str(path), run.config.data, protocols)
        data = open_dataset(arguments.data or runs[0].config.data.path)
        ido = settings.ido if arguments.ido is None else arguments.ido
        work = MeasuringWork(len(runs), split, num_points, tuple(protocols), ido, num_workers, num_gpus)
        shown = ", ".join(protocols)
        end = (
            f"would measure {len(runs)} runs on split {split} at {num_points} points a shape, {shown}:",
            *(f"  {path}: {run.method}" for path, run in zip(arguments.runs, runs, strict=True)),
            f"would write tables.json, tables.md, tables.csv and report.html to {arguments.out}",
        )
        print_plan(plan_measuring("evaluate", work, data, end), ClusterConfig() if config is None else config.cluster)
        return
    tables = evaluate(
        arguments.runs,
        split=split,
        num_points=num_points,
        out=arguments.out,
        protocols=protocols,
        ido=settings.ido if arguments.ido is None else arguments.ido,
        num_workers=num_workers,
        num_gpus=num_gpus,
        device=device,
        ido_settings=None if config is None else config.ido,
        cluster=None if config is None else config.cluster,
        seed=arguments.seed,
        data=arguments.data,
    )
    print(to_markdown(tables))
    print(f"report: {arguments.out / 'report.html'}")


def _settings(run: AnyPath) -> Config | None:
    from jr_dist.config import load_config

    path = run / "config.yaml"
    return load_config(path) if path.is_file() else None


EVALUATE = Verb(
    "evaluate",
    "measure trained runs: the paper's tables, with intervals",
    "Measure runs on a split of their dataset, top-1 and with oracle retrieval, beside the baselines that need "
    "no training. Writes tables.json, tables.md, tables.csv and one offline report.html.",
    _arguments,
    _run,
)
