"""`jr-dist compare`: every method trained and measured under one budget."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from jr_dist.verbs.train import add_config, load_settings
from jr_dist.verbs.verb import Verb


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    parser.usage = "%(prog)s [CONFIG.yaml] [--section.key VALUE ...] [--dry-run]"
    add_config(parser, words)


def _run(arguments: Namespace) -> None:
    from jr_dist.compare import EVALUATION, compare, describe_plan, plan_comparison

    config = load_settings(arguments)
    out = Path(config.run.path) / EVALUATION
    if arguments.dry_run:
        runs = plan_comparison(config)
        print(describe_plan(runs))
        print(f"would measure them on split {config.evaluate.split}, protocols {', '.join(config.evaluate.protocols)}")
        print(f"would write tables.json, tables.md, tables.csv and report.html to {out}")
        return
    from jr_dist.evaluate.markdown import to_markdown

    print(to_markdown(compare(config)))
    print(f"report: {out / 'report.html'}")


COMPARE = Verb(
    "compare",
    "train every method under one budget and put all into the paper's tables",
    "Train the methods of compare.methods with the seeds of compare.seeds on the same data with the same number of "
    "updates, each in run.path/METHOD-SEED, and measure all of them: run.path/evaluation holds the tables and the "
    "report. What is finished is not done again.",
    _arguments,
    _run,
)
