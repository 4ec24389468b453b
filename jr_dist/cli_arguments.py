"""The command line's grammar: one-line errors with a remedy, checked values, and a flag for every setting."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from jr_dist.config import Section
from jr_dist.errors import InputError


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake raises `InputError`, and an unknown flag is answered with the nearest one."""

    def __init__(self, **how: Any) -> None:
        # An abbreviated flag would mean another one once a new flag shares its beginning.
        super().__init__(allow_abbrev=False, formatter_class=_Help, **how)

    def error(self, message: str) -> NoReturn:
        """argparse calls this with its own words."""
        raise InputError(f"{message}; `{self.prog} --help` shows what is allowed")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Like `parse_args`, with a guess at what an unknown flag was meant to be."""
        arguments, unknown = self.parse_known_args(words)
        if not unknown:
            return arguments
        flag = unknown[0].partition("=")[0]
        known = [name for action in self._actions for name in action.option_strings]
        nearest = difflib.get_close_matches(flag, known, n=1)
        what = "flag" if flag.startswith("-") else "argument"
        guess = f"did you mean {nearest[0]}? " if nearest else ""
        raise InputError(f"unknown {what} {flag}; {guess}`{self.prog} --help` lists what is allowed")


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # argparse would run the paragraphs of a description together.
        how = {"width": width, "initial_indent": indent, "subsequent_indent": indent}
        return "\n\n".join(textwrap.fill(part, **how) for part in text.split("\n\n"))


def whole_number(least: int) -> Callable[[str], int]:
    """A converter of argparse: a whole number, `least` or more."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r}; allowed is a whole number, {least} or more")
        return value

    return convert


def names(*allowed: str) -> Callable[[str], tuple[str, ...]]:
    """A converter of argparse: a list such as chair,table; of `allowed` names where any are given."""

    def convert(text: str) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        wrong = [name for name in found if allowed and name not in allowed]
        if wrong or not found:
            choice = f"of {', '.join(allowed)}" if allowed else "of names"
            raise argparse.ArgumentTypeError(f"{wrong[0] if wrong else text!r}; allowed is a list {choice}, as in a,b")
        return found

    return convert


def add_settings(
    parser: argparse.ArgumentParser,
    section: str,
    model: type[Section],
    values: dict[str, Any],
    *,
    without: Collection[str] = (),
) -> None:
    """A flag `--section.key` for each setting of a section; its help shows the value in force, from `values`.

    `without` names settings that the command decides itself.
    """
    group = parser.add_argument_group(f"{section} settings", model.__doc__)
    for key, field in model.model_fields.items():
        name = f"{section}.{key}"
        if name in without:
            continue
        value = (
            _shown(values[name]) if name in values else "to be given" if field.is_required() else _shown(field.default)
        )
        # The text is checked with all other settings, so that the message is the same for a file and a flag.
        group.add_argument(
            f"--{name}",
            metavar=_placeholder(field.annotation),
            default=argparse.SUPPRESS,
            help=f"{field.description} [{value}]".replace("%", "%%"),
        )


def _placeholder(kind: Any) -> str:
    """What stands for the value in the help: its choices, where they are few."""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return {bool: "true|false", int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")


def _shown(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, bool | None):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def given_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """The `--section.key value` flags that were typed."""
    return {name: value for name, value in vars(arguments).items() if "." in name}
