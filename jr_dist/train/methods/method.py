"""What makes a method: all of them share the loop, the data, the checkpoints and the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from jr_dist.bank.client import Codes
from jr_dist.config import Config
from jr_dist.geometry.part_geometry import PartGeometry
from jr_dist.train.draw import Draw
from jr_dist.train.methods.plan import StepPlan
from jr_dist.train.pairs import Pairs, deform_pairs
from jr_dist.train.state import TrainState
from jr_dist.train.step import joint_step

if TYPE_CHECKING:  # the stream imports Ray; a step does not need it
    from jr_dist.data.streams import TargetBatch
    from jr_dist.data.table_reader import Dataset

#: (step, warm_up, alternate) -> what a step does; `warm_up` is whether it falls into the first epochs, whose candidates
#: are uniform for every method, `alternate` whether the modules take turns
Plan = Callable[[int, bool, bool], StepPlan]
#: (state, batch, plan, learning rate, candidates drawn) -> what is worth logging, with `nearest`: it ends with `move`
Step = Callable[[TrainState, "TargetBatch", StepPlan, float, Draw], dict[str, Any]]
#: (state, codes, geometry, shown [B, E, 3], points [B, N, 3], pairs) -> the sources of the pairs fitted to the
#: targets [M, N, 3]
Fitted = Callable[[TrainState, Codes, PartGeometry, Tensor, Tensor, Pairs], Tensor]


@dataclass(frozen=True)
class Method:
    """A row of the paper's tables that is trained."""

    name: str  # as `train.method` names it
    title: str
    trains_retrieval: bool
    trains_deformation: bool
    plan: Plan
    #: the method of the run whose deformation module it takes over and keeps, which `train.teacher` names
    teacher: str | None = None
    step: Step = joint_step
    #: what becomes of a source retrieved for a validation target: its chamfer to the target chooses the best checkpoint
    fitted: Fitted = deform_pairs
    #: called once by the driver at each start, when the settings are checked and the run directory is there
    before: Callable[[Config], None] | None = None
    #: called by all ranks together at each start, with the state as it goes on: leaves what the step needs of each
    #: training target in `state.of_targets`
    prepare: Callable[[TrainState, Dataset], None] | None = None

    @property
    def has_deformation(self) -> bool:
        """Whether a run of it can deform: by a module of its own or its teacher's."""
        return self.trains_deformation or self.teacher is not None
