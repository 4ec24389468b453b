"""`jr-dist sweep`: search settings on the validation split."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from jr_dist.verbs.train import add_config, load_settings
from jr_dist.verbs.verb import Verb


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    parser.usage = "%(prog)s [CONFIG.yaml] [--section.key VALUE ...] [--dry-run]"
    add_config(parser, words)


def _run(arguments: Namespace) -> None:
    from jr_dist.sweep import describe_plan, plan_sweep, sweep

    config = load_settings(arguments)
    if arguments.dry_run:
        print(describe_plan(plan_sweep(config)))
        return
    from jr_dist.evaluate.sweep_table import to_markdown

    print(to_markdown(sweep(config)))
    print(f"report: {config.run.path}/report.html; train the best: jr-dist train {config.run.path}/best.yaml")


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
