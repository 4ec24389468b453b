"""A Ray cluster of several nodes on this machine, with its job endpoint: jobs are submitted to it, its nodes killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

from failure_cases import away_from_ray, children_of, kill_tree

ROOT = Path(__file__).parent.parent
TOKEN = "a-token-for-tests-alone-0123456789"
#: for a job that does not bring its code along: kernels are compiled anew where a package is unpacked
CODE_FROM_HERE = ("--runtime-env-json", json.dumps({"env_vars": {"PYTHONPATH": str(ROOT)}}))
# A head without processors, and a node of one for each line that comes, which is told of. It ends with its input.
_CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster

store = 100 * 2**20
# A dead node is missed after 3 s and metrics are passed on every second: by Ray's defaults after 15 s, every 10.
system = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3, "metrics_report_interval_ms": 1000}
head = {"num_cpus": 0, "object_store_memory": store, "_system_config": system}
head |= {"include_dashboard": True, "dashboard_port": None, "dashboard_agent_listen_port": None}  # None: a free one
cluster = Cluster(initialize_head=True, head_node_args=head)

def tell(node, *more):
    raylet = node.all_processes["raylet"][0].process.pid
    print("node", node.node_id, raylet, node.metrics_export_port, *more, flush=True)

tell(cluster.head_node, cluster.webui_url)
for number, _ in enumerate(sys.stdin):
    # With a folder of its own, like a machine: nodes would unpack a job's code over one another's.
    own = {"temp_dir": os.environ["RAY_TMPDIR"] + f"/node-{number}", "include_log_monitor": True}
    tell(cluster.add_node(num_cpus=1, object_store_memory=store, **own))
"""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as far as Ray can tell."""

    id: str
    raylet: int
    metrics_port: int

    def kill(self) -> None:
        """SIGKILL to all its processes at once: workers outlive their raylet by seconds."""
        processes = [self.raylet, *children_of(self.raylet)]
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def metrics(self) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=30) as answer:
            return answer.read().decode()


@dataclass(frozen=True)
class Job:
    """What `ray job submit` follows; it ends when the job does, with its exit status."""

    name: str
    cluster: SeveralNodes
    process: subprocess.Popen
    written: IO[str]

    def until(self, condition: Callable[[], object], pause: float = 0.02) -> None:
        """Return as soon as the condition holds, which must be before the job ends."""
        deadline = time.monotonic() + 200
        while not condition():
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(pause)

    def end(self, meanwhile: Callable[[], object] = lambda: None) -> str:
        """What it wrote, when it has come to its end; until then something is done twice a second."""
        deadline = time.monotonic() + 300
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            meanwhile()
            time.sleep(0.5)
        self.written.seek(0)
        said = self.written.read()
        assert (self.process.returncode != 0) == (self.status == "FAILED"), said
        return said

    @property
    def status(self) -> str:
        """RUNNING, SUCCEEDED, STOPPED, ..."""
        return self.cluster.ask(f"/api/jobs/{self.name}")["status"]

    def actors(self, class_name: str = "") -> list[dict[str, Any]]:
        """Its actors, dead ones included, by Ray's own record: `pid`, `node_id`, `name`, `state`."""
        job_id = self.cluster.ask(f"/api/jobs/{self.name}")["job_id"]
        actors = self.cluster.ask("/api/v0/actors?limit=10000")["data"]["result"]["result"]
        return [each for each in actors if each["job_id"] == job_id and each["class_name"].startswith(class_name)]


@dataclass(frozen=True)
class SeveralNodes:
    """A head and nodes that run, and what its endpoint takes."""

    endpoint: str  # http://...
    process: subprocess.Popen
    environment: dict[str, str]  # of who submits
    running: list[Node]  # the head first

    @property
    def head(self) -> Node:
        """Where jobs begin."""
        return self.running[0]

    @property
    def nodes(self) -> list[Node]:
        """Where they work."""
        return self.running[1:]

    def add_node(self) -> Node:
        """Another node of one processor, which is up."""
        assert self.process.stdin is not None
        print("add", file=self.process.stdin, flush=True)
        self.running.append(_told_of(self.process)[0])
        return self.running[-1]

    def kill(self, node: Node) -> None:
        """A node is gone, as when a machine loses its power."""
        node.kill()
        self.running.remove(node)

    def dead_nodes(self) -> set[str]:
        """The nodes that Ray has given up."""
        nodes = self.ask("/api/v0/nodes")["data"]["result"]["result"]
        return {node["node_id"] for node in nodes if node["state"] == "DEAD"}

    @contextmanager
    def submit(self, name: str, *words: object, how: Sequence[str] = CODE_FROM_HERE) -> Iterator[Job]:
        """`ray job submit ... -- python jobs/VERB.py ...`, as docs/cluster.md says."""
        command = ["job", "submit", "--submission-id", name, *how, "--", "python", *map(str, words)]
        with TemporaryFile("w+") as written, self._ray(*command, to=written) as process:
            try:
                yield Job(name, self, process, written)
            finally:
                process.kill()

    def stop(self, job: Job) -> None:
        """`ray job stop`; returns when it is asked for."""
        with self._ray("job", "stop", "--no-wait", job.name, to=subprocess.DEVNULL) as asking:
            assert asking.wait(timeout=60) == 0

    def ask(self, path: str) -> Any:
        """What the endpoint answers."""
        request = urllib.request.Request(self.endpoint + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def _ray(self, *words: str, to: IO[str] | int) -> subprocess.Popen:
        command = [Path(sys.executable).parent / "ray", *words]
        return subprocess.Popen(command, stdout=to, stderr=subprocess.STDOUT, cwd=ROOT, env=self.environment)


def _told_of(process: subprocess.Popen) -> tuple[Node, list[str]]:
    assert process.stdout is not None
    told = next((line for line in process.stdout if line.startswith("node ")), "")
    assert told, "the cluster did not start"
    _, number, raylet, port, *more = told.split()
    return Node(number, int(raylet), int(port)), more


@contextmanager
def several_nodes(count: int) -> Iterator[SeveralNodes]:
    """A cluster that asks for a token, with `count` nodes of one processor; nothing of it outlives the block.

    Its processes find none of our code: it must come with each job.
    """
    mark = uuid.uuid4().hex
    own = away_from_ray(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, JR_TEST_MARK=mark)
    del own["PYTHONPATH"]
    # A job's `python` is this one, and who stops a job waits for its checkpoint.
    own |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    # Where Ray looks for the cluster of this machine: there may be others. Names of sockets must be short.
    with TemporaryDirectory(prefix="jr-", dir="/tmp", ignore_cleanup_errors=True) as own["RAY_TMPDIR"]:
        process, running = subprocess.Popen([sys.executable, "-c", _CLUSTER], **pipes, text=True, env=own), []
        try:
            head, [place] = _told_of(process)
            running.append(head)
            own["RAY_API_SERVER_ADDRESS"] = f"http://{place}"
            cluster = SeveralNodes(own["RAY_API_SERVER_ADDRESS"], process, own, running)
            for _ in range(count):
                cluster.add_node()
            yield cluster
        finally:
            for node in running:
                node.kill()  # Ray's agents write their names over the environment that bears the mark
            kill_tree(mark)
            process.communicate()
