"""Reservations that Ray Train leaves behind when the process that drives it is killed, as ASHA kills trials.

Ray frees a placement group with the job that made it, not with the actor. Ray Train has a guard against that, which
asks the dashboard; a cluster of our own has none.
"""

from __future__ import annotations

from typing import Any

import ray
from ray._private.state import state as global_state
from ray.core.generated import gcs_pb2 as messages
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup


def free_left_behind() -> int:
    """Remove this job's placement groups whose maker, an actor, is dead; returns how many.

    Ray's tables are read below its public functions, which don't say who made a group.
    """
    tables: Any = global_state._connect_and_get_accessor()
    gcs_pb2: Any = messages  # whose classes are made when it is imported
    actors = map(gcs_pb2.ActorTableData.FromString, tables.get_actor_table(None, "DEAD"))
    dead = {actor.actor_id for actor in actors}
    groups = list(map(gcs_pb2.PlacementGroupTableData.FromString, tables.get_placement_group_table()))
    own = bytes.fromhex(ray.get_runtime_context().get_job_id())
    orphans = [
        group
        for group in groups
        if group.creator_actor_id in dead
        and group.creator_job_id == own
        and group.state != gcs_pb2.PlacementGroupTableData.PlacementGroupState.REMOVED
    ]
    for group in orphans:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
    return len(orphans)
