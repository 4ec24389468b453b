"""What a verb of the command line is."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """A verb: its words for the help, its arguments, and what it does. Nothing heavy is imported before `run`.

    `add_arguments` also gets the words that were typed, for a help that depends on them.
    """

    name: str
    summary: str
    description: str
    add_arguments: Callable[[ArgumentParser, Sequence[str]], None]
    run: Callable[[Namespace], None]
