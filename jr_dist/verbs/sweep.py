"""`jr-dist sweep`: search settings on the validation split."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jr_dist.verbs.train import add_config, load_settings
from jr_dist.verbs.verb import Verb

if TYPE_CHECKING:
    from jr_dist.plan import Plan
    from jr_dist.sweep import SweepPlan


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    parser.usage = "%(prog)s [CONFIG.yaml] [--section.key VALUE ...] [--dry-run]"
    add_config(parser, words)


def _run(arguments: Namespace) -> None:
    from jr_dist.plan import print_plan
    from jr_dist.sweep import plan_sweep, sweep

    config = load_settings(arguments)
    if arguments.dry_run:
        print_plan(_plan(plan_sweep(config)), config.cluster)
        return
    from jr_dist.evaluate.sweep_table import to_markdown

    print(to_markdown(sweep(config)))
    print(f"report: {config.run.path}/report.html; train the best: jr-dist train {config.run.path}/best.yaml")


def _plan(sweep: SweepPlan) -> Plan:
    from jr_dist.placement import Ask, Node, of_trial, on_gpus
    from jr_dist.plan import Amounts, Plan
    from jr_dist.sweep import describe_plan
    from jr_dist.train.dry_run_plan import dry_run

    config, runs = sweep.config, sweep.num_trials + sweep.num_repeats
    trial = dry_run(config, None, verb="sweep")

    def asks(nodes: Sequence[Node]) -> tuple[Ask, ...]:  # of one trial; how many fit at once is said with the trials
        return of_trial(config, gpus=on_gpus(config.train.device, nodes))

    def seconds(nodes: Sequence[Node]) -> Amounts:
        return Amounts(
            ((f"{runs} runs one after another", runs * trial.seconds(nodes).total),), "fewer where ASHA stops"
        )

    return Plan(
        verb="sweep",
        lines=trial.lines,
        asks=asks,
        memory=Amounts(trial.memory.parts, "a trial"),
        disk=Amounts(((f"{runs} runs", runs * trial.disk.total),)),
        seconds=seconds,
        end=tuple(describe_plan(sweep).splitlines()),
        subject="a trial's processes",
        remedy="lower train.num_workers or bank.num_shards, or add machines",
    )


SWEEP = Verb(
    "sweep",
    "search sigma0, K, code sizes or any setting, and repeat the best",
    "Train sweep.trials configurations drawn from sweep.space by Optuna's TPE, several at a time, stopping the worse "
    "ones early by ASHA; repeat the best with further seeds; the best mean wins. run.path then holds best.yaml, a "
    "settings file for `jr-dist train`, sweep.json, sweep.md, sweep.csv and report.html, and each trial's run. An "
    "interrupted sweep goes on where it stopped. Needs the extra `sweep`.",
    _arguments,
    _run,
)
