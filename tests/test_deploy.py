"""cluster.yaml, deploy/rayjob.yaml and deploy/Dockerfile, as far as they can be checked without a cloud: by Ray's own
code, by the published fields of KubeRay's RayJob, and against one another."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jr_dist import __version__
from jr_dist.config import load_config
from jr_dist.placement import Node, of_training, place

ROOT = Path(__file__).parent.parent
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)


def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def rayjob() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, its words) of the Dockerfile, continued lines joined."""
    lines = (line for line in (ROOT / "deploy" / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


# ---- cluster.yaml ------------------------------------------------------------------------------


def test_ray_up_takes_the_cluster_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(cluster())
    validate_config(config)
    assert config["head_node_type"] == "head" and config["docker"]["image"]


def test_the_head_runs_no_work_and_groups_come_and_go():
    types = cluster()["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu"]["resources"]["GPU"] >= 1 and "GPU" not in types["cpu"]["resources"]
    for group in ("gpu", "cpu"):
        assert types[group]["min_workers"] == 0 < types[group]["max_workers"]
    assert cluster()["max_workers"] == sum(types[group]["max_workers"] for group in ("gpu", "cpu"))


def test_no_node_starts_without_the_token():
    config = cluster()
    assert config["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert any("RAY_AUTH_MODE=token" in words for name, words in dockerfile() if name == "ENV")
    assert ("USER", "ray") in dockerfile(), "whose home the token is mounted into"
    assert rayjob()["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "jr-dist-token"}
    text = "".join(path.read_text() for path in (ROOT / "cluster.yaml", *sorted((ROOT / "deploy").iterdir())))
    assert not re.search(r"AUTH_TOKEN=\S", text), "no token stands in a file"


# ---- the three together ------------------------------------------------------------------------


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    spec = job["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_all_nodes_have_one_image_of_the_versions_that_are_pinned():
    expected = f"jr-dist:{__version__}-ray{PINS['ray']}"
    images = {cluster()["docker"]["image"], *(container["image"] for container in containers(rayjob()))}
    assert images == {expected}
    assert f"-t {expected} " in (ROOT / "deploy" / "Dockerfile").read_text()
    assert rayjob()["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


def test_both_clusters_offer_the_same_groups_and_storage():
    types = cluster()["available_node_types"]
    for group in rayjob()["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        [container] = group["template"]["spec"]["containers"]
        limits, resources = container["resources"]["limits"], types[group["groupName"]]["resources"]
        assert limits == container["resources"]["requests"], "Ray counts the limits, Kubernetes the requests"
        assert float(limits["cpu"]) == resources["CPU"]
        assert float(limits.get("nvidia.com/gpu", 0)) == resources.get("GPU", 0)
        assert group["maxReplicas"] == types[group["groupName"]]["max_workers"]
    [storage] = [option for option in cluster()["docker"]["run_options"] if "JR_STORAGE" in option]
    uri = storage.split("=", 1)[1]
    assert uri.startswith("s3://")
    assert sum(word.startswith(f"{uri}/") for word in rayjob()["spec"]["entrypoint"].split()) == 2, "dataset and run"


# ---- deploy/rayjob.yaml ------------------------------------------------------------------------

WORDS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(Mi|Gi|m)?$"}}
NAMED = {"type": "object", "required": ["name"]}
COUNT = {"type": "integer", "minimum": 0}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these fields alone: the API server drops or refuses those it does not know."""
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


CONTAINER = closed(
    ["name", "image", "resources"],
    name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    image={"type": "string"},
    envFrom={
        "type": "array",
        "items": closed([], secretRef=closed(["name"], name={"type": "string"}, optional={"type": "boolean"})),
    },
    ports={
        "type": "array",
        "items": closed(
            ["containerPort"],
            containerPort={"type": "integer", "minimum": 1, "maximum": 65535},
            name={"type": "string", "maxLength": 15},
        ),
    },
    resources=closed([], requests=QUANTITIES, limits=QUANTITIES),
)
TEMPLATE = closed(
    ["spec"],
    metadata={"type": "object"},
    spec=closed(
        ["containers"],
        containers={"type": "array", "minItems": 1, "items": CONTAINER},
        tolerations={
            "type": "array",
            "items": closed(
                [],
                key={"type": "string"},
                operator={"enum": ["Exists", "Equal"]},
                effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
            ),
        },
    ),
)
#: of KubeRay's reference of ray.io/v1 (RayJobSpec, RayClusterSpec and what these hold), the fields that are used
RAYJOB = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=NAMED,
    spec=closed(
        ["entrypoint", "rayClusterSpec"],
        entrypoint={"type": "string"},
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        backoffLimit=COUNT,
        rayClusterSpec=closed(
            ["headGroupSpec"],
            rayVersion={"type": "string"},
            authOptions=closed([], mode={"enum": ["disabled", "token"]}, secretName={"type": "string"}),
            enableInTreeAutoscaling={"type": "boolean"},
            autoscalerOptions=closed(
                [],
                idleTimeoutSeconds=COUNT,
                upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
            ),
            headGroupSpec=closed(["template"], rayStartParams=WORDS, template=TEMPLATE),
            workerGroupSpecs={
                "type": "array",
                "items": closed(
                    ["groupName", "maxReplicas", "minReplicas", "template"],
                    groupName={"type": "string"},
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=WORDS,
                    template=TEMPLATE,
                ),
            },
        ),
    ),
)


def test_the_rayjob_has_the_fields_that_kuberay_publishes():
    jsonschema.validate(rayjob(), RAYJOB)
    spec = rayjob()["spec"]
    assert spec["shutdownAfterJobFinishes"], "or the time to live after it means nothing"
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job["spec"].pop("rayClusterSpec"),
        lambda job: job["spec"].update(entryPoint="x"),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("groupName"),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda job: containers(job)[0]["resources"]["limits"].update(cpu=4),
    ],
    ids=["no cluster", "a misspelt field", "a group without a name", "a number for a text", "a bare quantity"],
)
def test_a_spoilt_rayjob_is_seen(spoil):
    job = rayjob()
    spoil(job)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAYJOB)


def test_the_rayjob_s_entry_point_is_a_job_that_its_cluster_has_room_for():
    words = shlex.split(rayjob()["spec"]["entrypoint"])
    assert words[0] == "python"
    inside = "/opt/jr-dist/"
    script, config = (ROOT / word.removeprefix(inside) for word in words[1:3])
    assert script.is_file() and config.is_file() and words[1].startswith(inside)
    flags = dict(zip([word.removeprefix("--") for word in words[3::2]], words[4::2], strict=True))
    settings = load_config(config, flags)
    groups = rayjob()["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    nodes = [
        Node(float(limits["cpu"]), float(limits.get("nvidia.com/gpu", 0)))
        for group in groups
        for limits in [group["template"]["spec"]["containers"][0]["resources"]["limits"]]
        for _ in range(group["maxReplicas"])
    ]
    assert place(nodes, of_training(settings, gpus=True)) is not None


# ---- deploy/Dockerfile -------------------------------------------------------------------------


def test_the_dockerfile_s_instructions_are_ones_that_docker_has():
    instructions = dockerfile()
    assert instructions[0][0] == "FROM" and [name for name, _ in instructions].count("FROM") == 1
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "CMD"}
    assert {name for name, _ in instructions} <= known
    base = instructions[0][1]
    assert re.fullmatch(r"python:3\.11-slim-[a-z]+", base), "a Python that requires-python allows, its system named"


def test_the_image_has_the_compiler_that_triton_asks_for_on_a_gpu():
    [installed] = [words for name, words in dockerfile() if name == "RUN" and "apt-get install" in words]
    assert {"gcc", "libc6-dev"} <= set(installed.split())


def test_what_is_copied_exists_and_reaches_the_builder():
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for name, words in dockerfile() if name == "COPY" for source in words.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    assert sorted(kept) == sorted(copied)


def test_packages_are_pinned_and_their_extras_exist():
    installs = [words for name, words in dockerfile() if name == "RUN" and "pip install" in words]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [first, clients, own] = installs
    assert "--constraint constraints.txt" in first
    [named] = re.findall(r"\"\.\[(.*?)\]\"", first)
    assert set(named.split(",")) == set(extras) - {"dev"}, "all that a job may need, no tools"
    packages = [word for word in clients.split("pip install")[1].split() if not word.startswith("--")]
    assert packages and all(re.fullmatch(r"[a-z0-9]+==[0-9.]+", package) for package in packages)
    assert "--no-deps" in clients and "--no-deps" in own


def test_the_image_s_command_is_an_entry_point():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    [command] = [words for name, words in dockerfile() if name == "CMD"]
    assert yaml.safe_load(command)[0] in scripts
