"""Connecting: one local Ray that we also stop, nothing touched that was there before, a named one that is absent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jr_dist.cluster import connect, describe
from jr_dist.config import ClusterConfig
from jr_dist.errors import InputError

ROOT = Path(__file__).parent.parent

ALONE = """
import os
import ray
from jr_dist.cluster import connect
from jr_dist.config import ClusterConfig

os.environ["JR_TEST_WORD"] = "passed on"
with connect(ClusterConfig(num_cpus=3, object_store_mb=120)):
    resources = ray.cluster_resources()
    assert resources["CPU"] == 3, resources
    assert resources["object_store_memory"] <= 120 * 2**20, resources

    @ray.remote
    def work():
        print("a worker speaks")
        return os.environ["JR_TEST_WORD"]

    assert ray.get(work.remote()) == "passed on"
    with connect(ClusterConfig(num_cpus=1)):
        assert ray.cluster_resources()["CPU"] == 3
    assert ray.is_initialized(), "an inner block must not stop what it did not start"
assert not ray.is_initialized()
"""


@pytest.mark.slow
def test_a_cluster_of_our_own_is_bounded_quiet_and_stopped():
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, env={**environment, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    # Workers' lines come through on one stream or the other; Ray's own words don't.
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert all("a worker speaks" in line for line in lines), lines


@pytest.mark.slow
def test_the_shared_fixture_is_left_running(ray_cluster):
    import ray

    with connect(ClusterConfig()):
        pass
    assert ray.is_initialized()


def test_an_absent_cluster_is_refused_within_the_time_given(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Another test's Ray may be running; it is refused before Ray is asked for anything.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "nonsense", "127.0.0.1:port"):
        settings = ClusterConfig(address=address, timeout=0.2)
        with pytest.raises(InputError, match=r"cluster\.address is") as refused, connect(settings):
            pass
        assert address in str(refused.value)


def test_a_job_s_address_is_found_and_the_setting_beats_it(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "10.0.0.1:6379" in describe(ClusterConfig())
    assert "10.0.0.2:6379" in describe(ClusterConfig(address="10.0.0.2:6379"))
    monkeypatch.delenv("RAY_ADDRESS")
    assert "on this machine: 5 CPUs, 100 MB" in describe(ClusterConfig(num_cpus=5, object_store_mb=100))
    assert "on this machine" in describe(ClusterConfig(address="local"))
