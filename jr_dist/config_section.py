"""What the sections of the settings are made of: kinds of values, as typed in YAML or on a command line."""

from __future__ import annotations

from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def split_commas(value: Any) -> Any:
    """Text as a tuple of its parts, anything else as it is."""
    # On the command line a list is `chair,table`; in a YAML file it is a list.
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _none_from_word(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in ("none", "null") else value


def _yaml_of_text(value: Any) -> Any:
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value  # refused with what was typed


Count = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(split_commas), Field(min_length=1)]
Widths = Annotated[tuple[Count, ...], BeforeValidator(split_commas), Field(min_length=1)]
OptionalNames = Annotated[Names | None, BeforeValidator(_none_from_word)]
OptionalText = Annotated[str | None, BeforeValidator(_none_from_word)]
# by name, what is tried of a setting; on the command line YAML in one line. `train/sweep_space.py` reads it
SearchSpace = Annotated[dict[str, dict[str, Any]], BeforeValidator(_yaml_of_text), Field(min_length=1)]
OptionalCount = Annotated[Count | None, BeforeValidator(_none_from_word)]


class Section(BaseModel):
    """What all sections share: frozen, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
