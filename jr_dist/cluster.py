"""Connecting to Ray: the cluster that a setting or a job names, else a small one on this machine."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jr_dist.cluster_knock import ALLOWED as _ALLOWED
from jr_dist.cluster_knock import knock
from jr_dist.config import ClusterConfig
from jr_dist.errors import InputError
from jr_dist.placement import Node
from jr_dist.progress import watchers
from jr_dist.stop import ending_on_sigterm

# What Ray would do to a cluster of our own unless told otherwise; who sets one of these keeps it.
_LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray 2.60 has it anyway; Ray before that warns
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # 60 is short for a loaded laptop
    # Ray Train prints twice what a worker prints; a watcher of preemption has no use here.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
# Variables of the driver that workers on other machines need as well.
_PASSED_ON = ("JR_LOG", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR", "JR_SCRATCH", "JR_DEBUG")
_MB = 2**20


@contextmanager
def connect(settings: ClusterConfig, *, log_to_driver: bool = True) -> Iterator[None]:
    """Ray is connected inside the block; on leaving, only what this call started is shut down.

    `settings.address`, or RAY_ADDRESS (which a submitted job finds set), names a running cluster; without
    either, one is started on this machine, without a dashboard and with a bounded object store. Inside an
    existing connection this does nothing. Raises `InputError` where a named cluster does not answer in time.
    """
    for name, value in _LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    if is_own_cluster(settings):
        _start(settings, log_to_driver)
    else:
        _join(settings.address or os.environ["RAY_ADDRESS"], settings.timeout, log_to_driver)
    from jr_dist.progress_metrics import show_progress

    watchers.append(show_progress)
    try:
        with ending_on_sigterm():  # Ray has put a handler of its own in the place of the command line's
            yield
    finally:
        watchers.remove(show_progress)
        ray.shutdown()


def is_own_cluster(settings: ClusterConfig) -> bool:
    """Whether `connect` starts a cluster of its own on this machine."""
    address = settings.address or os.environ.get("RAY_ADDRESS")
    return not address or address == "local"


def in_a_job() -> bool:
    """Whether this process is the entry point of a job that was submitted to a cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def describe(settings: ClusterConfig) -> str:
    """One phrase for a dry run: which cluster `connect` would use."""
    if not is_own_cluster(settings):
        return f"the Ray cluster at {settings.address or os.environ['RAY_ADDRESS']}"
    return f"a Ray cluster on this machine: {own_cpus(settings)} CPUs, {_store_mb(settings)} MB object store"


def spilled_bytes() -> int | None:
    """Bytes that the connected cluster has spilled to disk since it started; None where Ray can't say."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    # Ray has no public call for it; its own `ray memory` asks like this.
    try:
        stats = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats
        return int(stats.spilled_bytes_total)
    except Exception as error:
        logging.getLogger(__name__).debug("spilled bytes unknown: %s", error)
        return None


def _start(settings: ClusterConfig, log_to_driver: bool) -> None:
    import ray

    # Ray announces on every start that its token authentication is on, as it should be.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    ray.init(
        address="local",
        num_cpus=own_cpus(settings),
        object_store_memory=_store_mb(settings) * _MB,
        include_dashboard=False,
        log_to_driver=log_to_driver,
        logging_level=logging.WARNING,
        # Without a dashboard Ray Train's clean-up actor warns every second that it can't ask it.
        logging_config=ray.LoggingConfig(encoding="TEXT", log_level="ERROR"),
    )


def _join(address: str, timeout: float, log_to_driver: bool) -> None:
    import ray
    from ray.exceptions import RayError

    if not address.startswith("ray://"):  # Ray's client, which gives up by itself
        address = knock(address, timeout)
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        ray.init(
            address=address,
            log_to_driver=log_to_driver,
            logging_level=logging.WARNING,
            # A submitted job already carries its environment, and Ray refuses to merge two that differ.
            runtime_env=None if in_a_job() or not passed_on else {"env_vars": passed_on},
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"setting cluster.address is {address}, where no Ray cluster answers ({reason}); {_ALLOWED}"
        ) from error


def own_cpus(settings: ClusterConfig) -> int:
    """Processors of a cluster that `connect` starts here."""
    # A training worker and the stream that feeds it each ask for one: with less they would wait for ever.
    return settings.num_cpus or max(
        2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    )


def _store_mb(settings: ClusterConfig) -> int:
    # A container may give /dev/shm only 64 MB; a store that does not fit there goes to the slower disk.
    shared_memory = Path("/dev/shm")
    free = shutil.disk_usage(shared_memory).free // _MB if shared_memory.is_dir() else settings.object_store_mb
    return max(100, min(settings.object_store_mb, int(0.8 * free)))


def look(settings: ClusterConfig) -> tuple[tuple[Node, ...], bool]:
    """The nodes that `connect` would find, and whether more may come; a cluster that is named is asked, nothing starts.

    Raises `InputError` where it does not answer in time.
    """
    if is_own_cluster(settings):
        import torch

        return (Node(float(own_cpus(settings)), float(torch.cuda.device_count())),), False
    from jr_dist.cluster_room import cluster_nodes, may_grow

    with connect(settings, log_to_driver=False):
        return cluster_nodes(), may_grow()
