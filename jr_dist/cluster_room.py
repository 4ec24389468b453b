"""The nodes of the connected Ray cluster, and waiting, within bounds, until they have room."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import ray
from ray.autoscaler.sdk import request_resources

from jr_dist.cluster import is_own_cluster
from jr_dist.config import ClusterConfig
from jr_dist.errors import InputError
from jr_dist.log import say
from jr_dist.placement import Ask, Node, lacking, shown
from jr_dist.stop import StoppedError

SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_LOOKS = 1.0
#: nodes that a cluster launcher or KubeRay started bear it; those that `ray start` made by hand don't
_NODE_GROUP = "ray.io/node-group"


def cluster_nodes() -> tuple[Node, ...]:
    """The live nodes, as if they were empty; the smallest first, as Ray's order changes from call to call."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = (Node(each.get("CPU", 0.0), each.get("GPU", 0.0), each.get("memory", 0.0)) for each in resources)
    return tuple(sorted(nodes))


def may_grow() -> bool:
    """Whether nodes belong to groups that a cluster launcher or KubeRay looks after, so that more may come."""
    return any(_NODE_GROUP in node.get("Labels", {}) for node in ray.nodes() if node["Alive"])


def wait_for_room(
    settings: ClusterConfig,
    asks: Sequence[Ask],
    *,
    subject: str,
    remedy: str,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Return when the nodes of the cluster, empty, have room for `asks`; a cluster that may grow is asked to.

    On a cluster started here, which stays as it is, `InputError` is raised at once; on one that was joined after
    `cluster.timeout` seconds in which no fitting node has come, and where it may grow after `cluster.grow_timeout`:
    "{subject} ask for ...; allowed is ...; {remedy}". Says every 15 s what it waits for, and raises `StoppedError` when
    `stop` says that SIGTERM came.
    """
    problem = lacking(cluster_nodes(), asks)
    if problem is None:
        return
    growing = may_grow()
    seconds = 0.0 if is_own_cluster(settings) else settings.grow_timeout if growing else settings.timeout
    started = said = time.monotonic()
    if growing:
        request_resources(bundles=[ask.resources for ask in asks for _ in range(ask.count)])
    try:
        while problem is not None:
            now = time.monotonic()
            if now - started >= seconds:
                raise InputError(_refusal(problem, subject, remedy, seconds, growing))
            if now - said >= SECONDS_BETWEEN_LINES or said == started:
                said = now + 1e-3
                grows = "more nodes were asked for" if growing else "it does not grow by itself"
                waited = f"waited {now - started:.0f} of {seconds:.0f} s"
                say(f"cluster: {subject} ask for {problem}; {grows}; {waited}", level="warning", stream=sys.stderr)
            if stop():
                raise StoppedError("stopped by SIGTERM while it waited for nodes; nothing was started")
            time.sleep(min(_SECONDS_BETWEEN_LOOKS, seconds))
            problem = lacking(cluster_nodes(), asks)
    finally:
        if growing:
            request_resources(bundles=[])  # else the nodes would never go again


def _refusal(problem: str, subject: str, remedy: str, seconds: float, growing: bool) -> str:
    there = f"what the cluster has ({shown(cluster_nodes())})"
    if growing:
        there += f", which did not grow enough in cluster.grow_timeout {seconds:.0f} s"
    elif seconds:
        there += f" after {seconds:.0f} s, and it does not grow by itself"
    return f"{subject} ask for {problem}, {there}; {remedy}"
