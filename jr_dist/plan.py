"""What every `--dry-run` prints, in one form: the plan, what it asks a cluster for, the package, memory, disk, time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from jr_dist.cluster import describe, is_own_cluster, look
from jr_dist.config import ClusterConfig
from jr_dist.errors import InputError
from jr_dist.estimates import MEASURED
from jr_dist.placement import Ask, Node, fewest_nodes, lacking, place, shown
from jr_dist.progress import duration

CLUSTER_FILE = Path("cluster.yaml")
#: lines that every plan has, in this order; what comes before is the verb's own
COMMON = ("Ray", "resources", "nodes", "package", "memory", "disk", "time")
_WIDTH = 18


@dataclass(frozen=True)
class Amounts:
    """About how much of something: (of what, how much), of which the sum is said first."""

    parts: tuple[tuple[str, float], ...]
    note: str = ""

    @property
    def total(self) -> float:
        """The sum."""
        return sum(value for _, value in self.parts)

    def shown(self, form: Callable[[float], str]) -> str:
        """`about 12 MB: checkpoints 10 MB, log 2 MB (note)`."""
        listed = ", ".join(f"{name} {form(value)}" for name, value in self.parts if value)
        detail = f": {listed}" if listed else ""
        return f"about {form(self.total)}{detail}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Plan:
    """What a verb would do, and take."""

    verb: str
    lines: tuple[tuple[str, str], ...]  # name and text
    asks: Callable[[Sequence[Node]], tuple[Ask, ...]]  # of a cluster of these nodes; nothing: in this process
    memory: Amounts  # bytes, of all processes
    disk: Amounts  # bytes written
    seconds: Callable[[Sequence[Node]], Amounts]  # on a cluster of these nodes; of none: in this process
    end: tuple[str, ...]  # "would write ..."
    subject: str = "its processes"
    remedy: str = "lower the number of processes, or add nodes"


def largest(amounts: Sequence[Amounts]) -> Amounts:
    """The one of most: of what is done one after another."""
    return max(amounts, key=lambda each: each.total)


def in_this_process(_: Sequence[Node]) -> tuple[Ask, ...]:
    """Asks a cluster for nothing."""
    return ()


def print_plan(plan: Plan, cluster: ClusterConfig | None) -> None:
    """Print a plan, and refuse what the run would: `InputError` where the cluster has no room and does not grow, and
    for a working directory that Ray would refuse. Looks at the cluster that `cluster` names, where Ray is used."""
    own = cluster is None or is_own_cluster(cluster)
    used = bool(cluster and plan.asks((Node(math.inf),)))
    nodes, growing = look(cluster) if cluster and used else ((), False)
    asks = plan.asks(nodes)
    problem = lacking(nodes, asks) if asks else None
    rows = list(plan.lines)
    rows.append(("Ray", describe(cluster) if cluster and used else "not used: all happens in this process"))
    rows.append(("resources", _resources(asks)))
    rows.append(("nodes", _nodes(nodes, asks, plan, problem, growing)))
    rows.append(("package", package_line(plan.verb)))
    rows.append(("memory", plan.memory.shown(size)))
    rows.append(("disk", plan.disk.shown(size)))
    rows.append(("time", _time(plan, nodes, asks)))
    print("\n".join(f"{name:<{_WIDTH}}{text}" for name, text in rows))
    print("\n".join(plan.end))
    if problem and not growing:
        where = " started here" if own else ""
        raise InputError(f"{plan.subject} ask for {problem}, what the cluster{where} has; {plan.remedy}")


def _resources(asks: Sequence[Ask]) -> str:
    if not asks:
        return "none of a cluster"
    cpus, gpus = (sum(ask.count * getattr(ask, what) for ask in asks) for what in ("cpus", "gpus"))
    return f"{'; '.join(map(str, asks))}: {cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "") + " in all"


def _nodes(nodes: Sequence[Node], asks: Sequence[Ask], plan: Plan, problem: str | None, growing: bool) -> str:
    if not asks:
        return "this machine"
    placed = place(nodes, asks)
    if placed is not None:
        used = {number for taken in placed for number in taken}
        here = f"fits on {len(used)} of {len(nodes)}: {shown(nodes)}"
    elif problem is None:
        here = f"as many at a time as fit on {shown(nodes)}"
    else:
        here = f"no room on {shown(nodes)}, " + ("which may grow" if growing else "which do not grow")
    return "; ".join([here, *_groups(plan)])


def _groups(plan: Plan) -> list[str]:
    """How many nodes of each group of ./cluster.yaml would hold all."""
    if not CLUSTER_FILE.is_file():
        return []
    types = (yaml.safe_load(CLUSTER_FILE.read_text()) or {}).get("available_node_types", {})
    said = []
    for name, group in types.items():
        resources = group.get("resources", {})
        node = Node(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))
        asks = plan.asks([node])
        count = fewest_nodes(node, asks)
        if count:
            kind = "GPUs" if any(ask.gpus for ask in asks) else "CPUs"
            said.append(f"{count} of {CLUSTER_FILE} {name} ({node}), on {kind}")
    return said


def _time(plan: Plan, nodes: Sequence[Node], asks: Sequence[Ask]) -> str:
    amounts = plan.seconds(nodes)
    text = amounts.shown(duration)
    if any(ask.gpus for ask in asks):
        text += "; no GPU was measured: this is what processors would take"
    return f"{text}; reckoned with {MEASURED.machine}"


def package_line(verb: str) -> str:
    """The size of what `ray job submit --working-dir .` would send from this folder.

    Raises `InputError` beyond Ray's limit. Where the folder has no job of that verb there is nothing to submit from it.
    """
    if not Path("jobs", f"{verb}.py").is_file():
        return f"no jobs/{verb}.py in this folder: nothing to submit from it"
    from jr_dist.cluster_package import package  # Ray takes a second to import

    found = package(Path())
    limit = size(found.limit)
    if found.num_bytes >= found.limit:
        largest = ", ".join(f"{name} {size(num_bytes)}" for name, num_bytes in found.largest)
        raise InputError(
            f"the working directory {Path().absolute()} makes a package of {size(found.num_bytes)} in "
            f"{found.num_files} files, mostly {largest}; allowed is below {limit}, or `ray job submit --working-dir .` "
            "refuses it; name what need not travel in .rayignore"
        )
    what = f"{size(found.num_bytes)} in {found.num_files} files"
    return f"{what}, of {limit} that `ray job submit --working-dir .` takes"


def size(num_bytes: float) -> str:
    """`1.2 GB`, `34 MB`, `0.5 MB`."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
