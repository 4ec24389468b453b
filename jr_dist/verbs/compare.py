"""`jr-dist compare`: every method trained and measured under one budget."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jr_dist.verbs.train import add_config, load_settings
from jr_dist.verbs.verb import Verb

if TYPE_CHECKING:
    from jr_dist.compare import PlannedRun
    from jr_dist.config import Config
    from jr_dist.locations import AnyPath
    from jr_dist.plan import Plan


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    parser.usage = "%(prog)s [CONFIG.yaml] [--section.key VALUE ...] [--dry-run]"
    add_config(parser, words)


def _run(arguments: Namespace) -> None:
    from jr_dist.compare import EVALUATION, compare, plan_comparison
    from jr_dist.locations import as_path
    from jr_dist.plan import print_plan

    config = load_settings(arguments)
    out = as_path(config.run.path) / EVALUATION
    if arguments.dry_run:
        print_plan(_plan(config, plan_comparison(config), out), config.cluster)
        return
    from jr_dist.evaluate.markdown import to_markdown

    print(to_markdown(compare(config)))
    print(f"report: {out / 'report.html'}")


def _plan(config: Config, runs: Sequence[PlannedRun], out: AnyPath) -> Plan:
    from jr_dist.compare import describe_plan
    from jr_dist.data.dataset import open_dataset
    from jr_dist.evaluate.dry_run import MeasuringWork, plan_measuring
    from jr_dist.placement import Ask, Node
    from jr_dist.plan import Amounts, Plan, largest
    from jr_dist.train.dry_run_plan import dry_run, side_by_side

    settings, at_once = config.evaluate, min(config.compare.side_by_side, len(runs))
    protocols = tuple(settings.protocols)
    work = MeasuringWork(
        len(runs), settings.split, settings.num_points, protocols, settings.ido, settings.num_workers, settings.num_gpus
    )
    end = (
        describe_plan(runs),
        f"would measure them on split {settings.split}, protocols {', '.join(protocols)}",
        f"would write tables.json, tables.md, tables.csv and report.html to {out}",
    )
    measuring = plan_measuring("compare", work, open_dataset(config.data.path), end)
    own = [side_by_side(dry_run(run.config, None), at_once) for run in runs if not run.finished]

    def asks(nodes: Sequence[Node]) -> tuple[Ask, ...]:  # the runs of one wave after the other, then the tables
        return own[0].asks(nodes) if own and own[0].asks(nodes) else measuring.asks(nodes)

    def seconds(nodes: Sequence[Node]) -> Amounts:
        # a run among others has a share of the processors, so that they take as long as one after another
        training = sum(plan.seconds(nodes).total for plan in own)
        return Amounts(((f"{len(own)} trainings", training), ("tables", measuring.seconds(nodes).total)))

    return Plan(
        verb="compare",
        lines=(("runs", f"{len(runs)}, {len(own)} to train, {at_once} at a time"), *measuring.lines[1:]),
        asks=asks,
        memory=largest([plan.memory for plan in (*own, measuring)]),
        disk=Amounts((("runs", sum(plan.disk.total for plan in own)), *measuring.disk.parts)),
        seconds=seconds,
        end=end,
    )


COMPARE = Verb(
    "compare",
    "train every method under one budget and put all into the paper's tables",
    "Train the methods of compare.methods with the seeds of compare.seeds on the same data with the same number of "
    "updates, each in run.path/METHOD-SEED, and measure all of them: run.path/evaluation holds the tables and the "
    "report. What is finished is not done again.",
    _arguments,
    _run,
)
