"""Clusters that can't be joined or lack room, for real: one line with the remedy and exit status 2, in bounded time."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import TINY_SETTINGS
from failure_cases import away_from_ray, kill_tree

from jr_dist import cluster_room
from jr_dist.config import ClusterConfig
from jr_dist.errors import InputError
from jr_dist.placement import Ask, Node
from jr_dist.stop import StoppedError

ROOT = Path(__file__).parent.parent
TOKEN = "a-token-for-tests-alone-0123456789"
FLAGS = [f"--{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in TINY_SETTINGS.items()]
# A head without processors, of which a GPU's are declared, and one node more; it ends when its input ends.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

store = 100 * 2**20
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": store})
cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=store)
print("address", cluster.address, flush=True)
for line in sys.stdin:
    cluster.add_node(num_cpus=2, object_store_memory=store)
"""


@dataclass(frozen=True)
class Running:
    address: str
    process: subprocess.Popen

    def add_node(self) -> None:
        assert self.process.stdin is not None
        print("add", file=self.process.stdin, flush=True)


@pytest.fixture(scope="module")
def with_token() -> Iterator[Running]:
    """A cluster of two nodes, 2 CPUs and 1 GPU declared, that asks for a token; on ports of its own."""
    mark = uuid.uuid4().hex
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    own = away_from_ray(JR_TEST_MARK=mark, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    with subprocess.Popen([sys.executable, "-c", CLUSTER], **pipes, text=True, env=own) as process:
        try:
            assert process.stdout is not None
            address = next(line.split()[1] for line in process.stdout if line.startswith("address"))
            yield Running(address, process)
        finally:
            kill_tree(mark)


def train(dataset: Path, run: Path, *flags: str, token: str = TOKEN) -> subprocess.CompletedProcess:
    words = [sys.executable, str(ROOT / "jobs" / "train.py"), *FLAGS, f"--data.path={dataset}", f"--run.path={run}"]
    own = away_from_ray(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    return subprocess.run(
        [*words, "--train.num_workers=1", *flags], env=own, capture_output=True, text=True, timeout=200, check=False
    )


def refusal(done: subprocess.CompletedProcess) -> str:
    """The one line that was said on stderr but for what was waited for, and what Ray says of the machine's disk."""
    assert done.returncode == 2, done.stderr
    said = done.stderr.strip().splitlines()
    [line] = [line for line in said if not line.startswith("cluster: ") and "(raylet)" not in line]
    assert line.startswith("jr-dist train: error: ")
    return line


@pytest.mark.slow
@pytest.mark.parametrize("how", ["", "--dry-run"])
def test_a_wrong_token_is_refused_at_once(with_token, tiny_dataset, tmp_path, how):
    flags = [f"--cluster.address={with_token.address}", *([how] if how else [])]
    started = time.monotonic()
    line = refusal(train(tiny_dataset, tmp_path / "run", *flags, token="another"))
    assert time.monotonic() - started < 60, "not for the two minutes that an absent cluster is waited for"
    assert f"the Ray cluster at {with_token.address} refuses the token" in line and "RAY_AUTH_TOKEN" in line
    assert not list((tmp_path / "run").rglob("checkpoints"))


@pytest.mark.slow
def test_a_token_that_lies_there_is_used_where_a_cluster_asks_for_one(with_token, tiny_dataset, tmp_path):
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    code = "import os, sys; from jr_dist.cluster_knock import knock; knock(sys.argv[1], 5); "
    code += "print(os.environ['RAY_AUTH_MODE'])"
    words = [sys.executable, "-c", code, with_token.address]
    done = subprocess.run(words, env=away_from_ray(HOME=str(tmp_path)), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["token"] and not done.stderr


OPEN_CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
from jr_dist.cluster import connect
from jr_dist.config import ClusterConfig

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
with connect(ClusterConfig(address=cluster.address)):
    import ray

    class Process:
        def answer(self):
            return 7

    print(ray.get(ray.remote(num_cpus=1)(Process).remote().answer.remote(), timeout=60), "RAY_AUTH_MODE" in os.environ)
"""


@pytest.mark.slow
def test_a_cluster_without_tokens_is_joined_without_one_though_one_lies_there(tmp_path):
    """Its processes could not answer a driver that asks them for tokens: actors would die as soon as they start."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(TOKEN)
    mark = uuid.uuid4().hex
    own = away_from_ray(JR_TEST_MARK=mark, HOME=str(tmp_path))
    try:
        done = subprocess.run(
            [sys.executable, "-c", OPEN_CLUSTER], env=own, capture_output=True, text=True, timeout=200
        )
    finally:
        kill_tree(mark)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ["7", "False"]


@pytest.mark.slow
def test_more_gpus_than_there_are_are_refused_with_what_there_is(with_token, tiny_dataset, tmp_path):
    flags = ["--train.device=cuda", "--train.num_workers=2", "--train.batch_size=4", "--cluster.timeout=3"]
    line = refusal(train(tiny_dataset, tmp_path / "run", f"--cluster.address={with_token.address}", *flags))
    assert "ask for 2 GPUs" in line and "allowed is 1, what the cluster has" in line
    assert "after 3 s, and it does not grow by itself" in line and "lower one of them" in line
    planned = train(tiny_dataset, tmp_path / "run", f"--cluster.address={with_token.address}", *flags, "--dry-run")
    assert "allowed is 1" in refusal(planned) and "which do not grow" in planned.stdout


@pytest.mark.slow
def test_a_dry_run_looks_at_the_cluster_that_is_named(with_token, tiny_dataset, tmp_path):
    done = train(tiny_dataset, tmp_path / "run", f"--cluster.address={with_token.address}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"the Ray cluster at {with_token.address}" in done.stdout
    assert "1 worker of 0.5 CPU and 1 GPU, PACK" in done.stdout, "train.device auto, and there is one"
    assert "fits on 1 of 2: 1 node of 0 CPUs, 1 node of 2 CPUs and 1 GPU" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_name_that_already_ran_is_refused(tiny_run, tiny_dataset):
    config = ["--run.resume=never", "--train.num_workers=0"]
    line = refusal(train(tiny_dataset, tiny_run, *config))
    assert f"run.path {tiny_run} holds a trained run already" in line and "name another or remove it" in line


@pytest.mark.parametrize("named", ["--cluster.address=127.0.0.1:9", "RAY_ADDRESS"])
def test_a_head_that_does_not_answer_is_refused_in_time(tiny_dataset, tmp_path, named, monkeypatch, capsys):
    from jr_dist.cli import main

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    words = ["train", *FLAGS, f"--data.path={tiny_dataset}", f"--run.path={tmp_path / 'run'}", "--cluster.timeout=0.5"]
    words += ["--train.num_workers=1", *([] if named == "RAY_ADDRESS" else [named])]
    started = time.monotonic()
    assert main(words) == 2 and main([*words, "--dry-run"]) == 2
    assert time.monotonic() - started < 30
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and all("127.0.0.1:9, where no Ray cluster answers within 0.5 s" in line for line in lines)


# ---- waiting, without a cluster ----------------------------------------------------------------

TWO_WORKERS = [Ask("worker", 2, 1.0)]


@pytest.fixture
def growing(monkeypatch):
    """A cluster whose nodes are what `state.nodes` says, and that notes what it is asked for."""
    state = SimpleNamespace(nodes=[Node(1.0)], grows=True, asked=[], looks=0)

    def nodes() -> tuple[Node, ...]:
        state.looks += 1
        if state.looks == 3 and state.grows:
            state.nodes = [*state.nodes, Node(1.0)]
        return tuple(state.nodes)

    monkeypatch.setattr(cluster_room, "cluster_nodes", nodes)
    monkeypatch.setattr(cluster_room, "may_grow", lambda: True)
    monkeypatch.setattr(cluster_room, "request_resources", lambda bundles: state.asked.append(bundles))
    monkeypatch.setattr(cluster_room, "_SECONDS_BETWEEN_LOOKS", 0.01)
    return state


JOINED = ClusterConfig(address="10.0.0.1:6379", grow_timeout=0.3, timeout=0.1)


def test_a_cluster_that_grows_is_asked_to_and_waited_for(growing, capsys):
    cluster_room.wait_for_room(JOINED, TWO_WORKERS, subject="the run", remedy="add nodes")
    assert growing.asked == [[{"CPU": 1.0}] * 2, []], "and the request is taken back, so that nodes may go again"
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "the run ask for 2 processors" in line and "more nodes were asked for" in line


def test_a_cluster_that_does_not_grow_enough_is_given_up(growing):
    growing.grows = False
    with pytest.raises(InputError, match=r"did not grow enough in cluster\.grow_timeout 0 s; add nodes"):
        cluster_room.wait_for_room(JOINED, TWO_WORKERS, subject="the run", remedy="add nodes")
    assert growing.asked[-1] == []


def test_who_waits_can_be_stopped(growing):
    growing.grows = False
    with pytest.raises(StoppedError, match="while it waited for nodes"):
        cluster_room.wait_for_room(JOINED, TWO_WORKERS, subject="the run", remedy="-", stop=lambda: True)
    assert growing.asked[-1] == []


def test_a_cluster_started_here_is_not_waited_for(growing, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster_room, "may_grow", lambda: False)
    with pytest.raises(InputError, match=r"ask for 2 processors: .*; allowed is 1, what the cluster has"):
        cluster_room.wait_for_room(ClusterConfig(), TWO_WORKERS, subject="the run", remedy="-")
    assert growing.looks <= 2


LABELLED = """
from jr_dist.cluster import connect
from jr_dist.cluster_room import may_grow
from jr_dist.config import ClusterConfig

with connect(ClusterConfig(num_cpus=2, object_store_mb=100)):
    print(may_grow())
"""


@pytest.mark.slow
@pytest.mark.parametrize("group", ["", "gpu"])
def test_nodes_that_a_launcher_looks_after_are_known_by_their_group(group):
    """The variable is what `ray up` and KubeRay start a node with."""
    own = away_from_ray(**({"RAY_NODE_TYPE_NAME": group} if group else {}))
    done = subprocess.run([sys.executable, "-c", LABELLED], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(bool(group))]


@pytest.mark.slow
def test_a_node_that_joins_in_time_is_used(with_token, tiny_dataset, tmp_path):
    """Last, since the node stays."""
    flags = ["--train.num_workers=2", "--train.batch_size=4", "--bank.num_shards=3", "--bank.block_size=4"]
    words = [sys.executable, str(ROOT / "jobs" / "train.py"), *FLAGS, f"--data.path={tiny_dataset}"]
    words += [f"--run.path={tmp_path / 'run'}", "--train.device=cpu", f"--cluster.address={with_token.address}", *flags]
    own = away_from_ray(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, env=own, text=True, **pipes) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("cluster: "))
        assert "ask for 2.5 processors" in line and "does not grow by itself" in line
        with_token.add_node()
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "trained chamfer_x100=" in out
