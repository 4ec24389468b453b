"""The settings that a sweep searches: read from `sweep.space`, checked, drawn from, put into a configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Annotated, Any, get_args

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from jr_dist.config import Config, flatten, known_settings, load_config, sections
from jr_dist.config_file import unknown_setting
from jr_dist.errors import InputError

#: settings of which all trials must have the same: where and how they run, and what their chamfer is measured on
FIXED = (
    *("run.", "cluster.", "evaluate.", "compare.", "sweep."),
    *("train.seed", "train.num_workers", "train.device", "train.teacher", "train.checkpoint_every"),
    *("bank.num_shards", "labels.path", "labels.num_workers"),
    *("data.path", "data.categories", "data.num_points", "data.observed", "data.images", "data.num_views"),
)
#: combinations of ends and choices that are checked before anything starts
MOST_COMBINATIONS = 3000


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values of which a wrong one is found before the sweep starts."""
        return self.values

    def __str__(self) -> str:
        return "one of " + ", ".join(map(str, self.values))


@dataclass(frozen=True)
class Span:
    """All numbers from `low` to `high`, both included; drawn evenly, or evenly by their logarithms."""

    low: float
    high: float
    log: bool
    whole: bool

    @property
    def ends(self) -> tuple[Any, ...]:
        """The least and the largest."""
        return self.low, self.high

    def __str__(self) -> str:
        how = "evenly by the logarithm" if self.log else "evenly"
        return f"{self.low:g} to {self.high:g}, {how}{', whole numbers' if self.whole else ''}"


Domain = Choice | Span
Space = dict[str, Domain]


def read_space(config: Config) -> Space:
    """`sweep.space`, by name. Raises `InputError` for unknown names, wrong kinds, and combinations that are refused."""
    space = {name: _domain(name, spec) for name, spec in config.sweep.space.items()}
    for values in _combinations(space):
        with_values(config, values)
    return space


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with other values. Raises `InputError` where they are refused."""
    try:
        return load_config(None, {**flatten(config), **values})
    except InputError as error:
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        raise InputError(f"sweep.space allows {shown}, but: {error}") from None


def size(space: Space) -> float:
    """How many configurations there are: infinite where a number is not whole."""
    return math.prod(len(list(_all_of(domain))) if _is_finite(domain) else math.inf for domain in space.values())


def untried(space: Space, tried: set[str], rng: np.random.Generator) -> dict[str, Any] | None:
    """A configuration of a finite space that is not among `tried` (`key`), each as likely; None where all are."""
    everything = (dict(zip(space, values)) for values in product(*map(_all_of, space.values())))
    left = [values for values in everything if key(values) not in tried]
    return left[int(rng.integers(len(left)))] if left else None


def key(values: Mapping[str, Any]) -> str:
    """The same text for the same values."""
    return repr(sorted((name, _plain(value)) for name, value in values.items()))


def _domain(name: str, spec: Mapping[str, Any]) -> Domain:
    section, _, setting = name.partition(".")
    if setting not in known_settings().get(section, ()):
        raise unknown_setting(name, "sweep.space", known_settings())
    if name.startswith(FIXED):
        raise InputError(
            f"sweep.space names {name}, of which all trials must have the same; allowed is what changes how a run "
            f"learns; leave it out, and set {name} itself"
        )
    field = sections()[section].model_fields[setting]
    if len(spec) != 1 or not set(spec) <= {"choice", "range", "log"}:
        raise InputError(
            f"sweep.space: {name} is {dict(spec)}; allowed is one of choice: [A, B], range: [LOW, HIGH], log: [LOW, "
            "HIGH]; give one of them"
        )
    [(kind, values)] = spec.items()
    if not isinstance(values, list | tuple) or len(values) < 2:
        raise InputError(f"sweep.space: {kind} of {name} is {values}; allowed is a list of two or more; give one")
    values = tuple(_checked(name, field, value) for value in values)
    if kind == "choice":
        if len({repr(value) for value in values}) < len(values):
            raise InputError(f"sweep.space: {name} has a choice twice: {list(values)}; allowed is each once; drop one")
        return Choice(values)
    return _span(name, kind, values, kinds=set(_kinds(field.annotation)))


def _span(name: str, kind: str, values: tuple[Any, ...], kinds: set[Any]) -> Span:
    if not kinds & {int, float}:
        raise InputError(f"sweep.space: {name} has a {kind}, but is no number; allowed is choice: [A, B]; use that")
    # None is a value of some settings that are numbers else.
    if len(values) != 2 or None in values or values[0] >= values[1]:
        raise InputError(
            f"sweep.space: {kind} of {name} is {list(values)}; allowed are two numbers, the lower one first; give them"
        )
    if kind == "log" and values[0] <= 0:
        raise InputError(
            f"sweep.space: log of {name} begins at {values[0]}; allowed is more than 0; raise it or use range"
        )
    return Span(values[0], values[1], log=kind == "log", whole=float not in kinds)


def _checked(name: str, field: FieldInfo, value: Any) -> Any:
    """The value as the setting's own kind."""
    try:
        kind: Any = Annotated[field.annotation, field]
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        allowed = error.errors()[0]["msg"].replace("Input should be", "allowed is")
        raise InputError(f"sweep.space: {name} may not be {value}; {allowed}; correct it") from None


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _kinds(inner)


def _combinations(space: Space) -> Iterator[dict[str, Any]]:
    """All combinations of ends and choices, or where there are too many as many drawn."""
    ends = [domain.ends for domain in space.values()]
    if math.prod(map(len, ends)) <= MOST_COMBINATIONS:
        yield from (dict(zip(space, values)) for values in islice(product(*ends), MOST_COMBINATIONS))
        return
    rng = np.random.default_rng(0)
    for _ in range(MOST_COMBINATIONS):
        yield {name: values[int(rng.integers(len(values)))] for name, values in zip(space, ends)}


def _is_finite(domain: Domain) -> bool:
    return isinstance(domain, Choice) or domain.whole


def _all_of(domain: Domain) -> Iterator[Any]:
    return iter(domain.values if isinstance(domain, Choice) else range(int(domain.low), int(domain.high) + 1))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
