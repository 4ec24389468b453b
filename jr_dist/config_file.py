"""Reading a settings file, and saying in one line what is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jr_dist.errors import InputError
from jr_dist.locations import AnyPath

# Section -> its keys, in the order of the tree.
Known = Mapping[str, Sequence[str]]


class _StrictLoader(yaml.SafeLoader):
    """YAML, but a key given twice is an error: plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_tree(path: AnyPath, known: Known) -> dict[str, dict[str, Any]]:
    """The file as {section: {key: value}}; every name checked against `known`, the values not yet.

    Raises `InputError` for a file that can't be read, is no YAML or names a setting that does not exist.
    """
    tree = _parse(path)
    if not isinstance(tree, dict):
        raise InputError(f"config file {path} is a {type(tree).__name__}; allowed are sections: {_names(known)}")
    for section, keys in tree.items():
        if section not in known:
            raise unknown_setting(str(section), path, known)
        if not isinstance(keys, dict | None):
            raise InputError(f"section {section} in {path} is {keys!r}; allowed are keys: {_names(known[section])}")
        for key in keys or {}:
            if key not in known[section]:
                raise unknown_setting(f"{section}.{key}", path, known)
    # A section whose keys are all commented out reads as None.
    return {section: dict(keys or {}) for section, keys in tree.items()}


def _parse(path: AnyPath) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _StrictLoader) or {}  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise InputError(f"config file {path} can't be read ({error.strerror}); name an existing YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}," if mark else ""
        reason = getattr(error, "problem", None) or "not UTF-8 text"
        raise InputError(f"config file {path}{line} is no valid YAML ({reason}); correct it") from None


def unknown_setting(name: str, where: str | AnyPath, known: Known) -> InputError:
    """The error for a section or `section.key` that does not exist, with the nearest one that does."""
    section, _, key = name.partition(".")
    settings = [f"{section}.{key}" for section, keys in known.items() for key in keys]
    # The right key in the wrong section is likelier meant than a neighbour in spelling.
    same_key = [setting for setting in settings if key and setting.endswith("." + key)]
    guesses = same_key or difflib.get_close_matches(name, [*settings, *known], n=1, cutoff=0.6)
    remedy = f"did you mean {guesses[0]}?" if guesses else "remove it"
    allowed = f"{section} has {_names(known[section])}" if section in known else f"sections are {_names(known)}"
    return InputError(f"unknown setting {name} in {where}; {allowed}; {remedy}")


def invalid_value(error: ValidationError, path: str | AnyPath | None, overridden: Mapping[str, Any]) -> InputError:
    """The first of pydantic's complaints as one line: setting, value, what is allowed, remedy."""
    details = error.errors()
    first = details[0]
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if first["type"] == "settings_disagree":
        return InputError(first["msg"] + more)
    name = ".".join(str(part) for part in first["loc"][:2])
    where = "" if name in overridden or path is None else f" in {path}"
    if first["type"] == "missing":
        # A section that is wholly absent is reported by its own name alone; what it lacks is its path.
        name = name if "." in name else f"{name}.path"
        return InputError(f"setting {name} is missing{where}; give it in the config file or as --{name} VALUE{more}")
    value = "empty" if first["input"] in ("", (), []) else first["input"]
    return InputError(f"setting {name} is {value}{where}; {_allowed(first)}; correct it, or pass --{name} VALUE{more}")


def _allowed(detail: ErrorDetails) -> str:
    words = {
        "Input should be": "allowed is",
        "Value should have": "allowed is to have",
        "'": "",
        ", not 0": "",
    }
    message = detail["msg"]
    for theirs, ours in words.items():
        message = message.replace(theirs, ours)
    return message


def _names(names: Any) -> str:
    return ", ".join(names)
