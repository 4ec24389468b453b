"""The settings of a sweep."""

from __future__ import annotations

from pydantic import Field

from jr_dist.config_section import OptionalCount, SearchSpace, Section


class SweepConfig(Section):
    """What `sweep` tries, how much of it, and what it repeats."""

    space: SearchSpace = Field(
        default={
            "retrieval.sigma0": {"log": [0.5, 200]},
            "retrieval.num_candidates": {"choice": [2, 5, 10, 20]},
            "model.global_code": {"choice": [64, 128, 256]},
            "model.part_code": {"choice": [8, 16, 32]},
            "model.target_code": {"choice": [64, 128, 256]},
        },
        validate_default=True,
        description="settings that are searched, by name: {choice: [A, B]}, {range: [LOW, HIGH]} or {log: [LOW, HIGH]}",
    )
    trials: int = Field(default=24, ge=1, description="configurations that are tried, each with train.seed")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of the search: which configurations are tried")
    grace_epochs: OptionalCount = Field(
        default=None,
        description="epochs before which no trial is stopped; none = warmup_epochs, which know no sigma0, and the time "
        "between two validations",
    )
    reduction: float = Field(
        default=3.0, gt=1, description="of those that come to the same epoch, one in so many goes on to the next rung"
    )
    finalists: int = Field(default=3, ge=1, description="the best configurations, repeated with further seeds")
    repeats: int = Field(default=2, ge=0, description="further seeds of each of them; the best mean wins")
    retries: int = Field(default=2, ge=0, description="new starts of a trial whose process or machine dies")
    side_by_side: OptionalCount = Field(
        default=None, description="trials at the same time, at most; none = as many as the cluster has room for"
    )
