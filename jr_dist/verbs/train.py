"""`jr-dist train`: one method on one dataset."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jr_dist.verbs.verb import Verb

if TYPE_CHECKING:
    from jr_dist.config import Config


def _arguments(parser: ArgumentParser, words: Sequence[str]) -> None:
    parser.usage = "%(prog)s [CONFIG.yaml] [--section.key VALUE ...] [--resume auto|never|PATH] [--dry-run]"
    parser.add_argument(
        "--resume",
        metavar="auto|never|PATH",
        dest="run.resume",
        default=SUPPRESS,
        help="the same as --run.resume",
    )
    add_config(parser, words)


def add_config(parser: ArgumentParser, words: Sequence[str]) -> None:
    """The settings file and a flag for every setting."""
    from jr_dist.cli_arguments import add_settings
    from jr_dist.config import known_settings, sections
    from jr_dist.config_file import read_tree

    parser.add_argument("config", metavar="CONFIG.yaml", type=Path, nargs="?", help="settings; flags beat the file")
    # The help shows the values of the file, when the file is among the words.
    files = [word for word in words if word.endswith((".yaml", ".yml")) and Path(word).is_file()]
    tree = read_tree(Path(files[0]), known_settings()) if files and {"-h", "--help"} & set(words) else {}
    values = {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}
    for section, model in sections().items():
        add_settings(parser, section, model, values)


def _run(arguments: Namespace) -> None:
    config = load_settings(arguments)
    if arguments.dry_run:
        _plan(config)
        return
    from jr_dist.progress import field_line
    from jr_dist.train.trainer import train

    result = train(config)
    print(field_line("trained", result.metrics))
    print(f"run directory: {result.path}")


def _plan(config: Config) -> None:
    """What a dry run says; it refuses what the run would."""
    from jr_dist.plan import print_plan
    from jr_dist.train.checks import check, with_absolute_paths
    from jr_dist.train.dry_run_plan import dry_run
    from jr_dist.train.run_directory import start_point

    config = with_absolute_paths(config)
    check(config)
    print_plan(dry_run(config, start_point(config)), config.cluster)


def load_settings(arguments: Namespace) -> Config:
    """The settings of `train`'s arguments: the file, beaten by the flags."""
    from jr_dist.cli_arguments import given_settings
    from jr_dist.config import load_config

    return load_config(arguments.config, given_settings(arguments))


TRAIN = Verb(
    "train",
    "train retrieval and deformation together on a dataset",
    "Train one method on a dataset, by --train.method: `ours` (retrieval and deformation jointly), `ours_ido` (the "
    "same, taught by inner deformation optimisation), `uniform` (candidates drawn uniformly), `df` (deformation "
    "alone), `dar` (deformation-aware retrieval for the df run that --train.teacher names), `mds` and `ae` (retrieval "
    "alone, by the undeformed shapes), `fit_aware` (retrieval trained on the fit after IDO, for an ours run). A run "
    "that was interrupted goes on where it stopped.\n\n"
    "Settings come from CONFIG.yaml; a flag --section.key VALUE beats the file, in any order. The value in "
    "force stands in brackets.",
    _arguments,
    _run,
)
