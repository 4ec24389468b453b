"""One frozen tree of settings: what every number is for, what is allowed, and the paper's value where ours differs.

A setting is named `section.key` everywhere: in the YAML file (`section:` then `key: value`), on the command line
(`--section.key value`) and in messages. `geometry/` and `models/` do not import this file; they take plain arguments.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from jr_dist.errors import InputError


def _split_commas(value: Any) -> Any:
    # On the command line a list is `chair,table`; in a YAML file it is a list.
    return (
        tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
    )


def _none_from_word(value: Any) -> Any:
    return None if isinstance(value, str) and value.strip().lower() in ("none", "null") else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas), Field(min_length=1)]
Widths = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split_commas), Field(min_length=1)
]
OptionalNames = Annotated[Names | None, BeforeValidator(_none_from_word)]
OptionalText = Annotated[str | None, BeforeValidator(_none_from_word)]
OptionalCount = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_none_from_word)]


class Section(BaseModel):
    """What all sections share: frozen, no unknown keys, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Which shapes are read and how many of their points are used."""

    path: str = Field(min_length=1, description="dataset directory, as `synthesize` or `ingest` leaves it")
    categories: OptionalNames = Field(
        default=None,
        description="categories to train on, as in chair,table; none = all. The paper: one run a category",
    )
    num_points: int = Field(default=2048, ge=32, description="points of a shape in the fitting loss")
    encoder_points: int = Field(
        default=2048, ge=16, description="points of a shape that the encoders see, the first of num_points"
    )


class ModelConfig(Section):
    """The encoders and the structure-aware deformation module (section 2.2)."""

    encoder: Literal["pointnet"] = Field(default="pointnet", description="what encodes a target's points")
    encoder_channels: Widths = Field(
        default=(64, 64, 64, 128, 1024),
        description="widths of the encoder's layers shared by the points, up to the max-pooling",
    )
    global_code: int = Field(default=256, ge=1, description="width of a source's global code")
    part_code: int = Field(default=32, ge=1, description="width of a part's code")
    target_code: int = Field(default=256, ge=1, description="width of the encoded target")
    hidden: Widths = Field(
        default=(512, 256), description="widths of the hidden layers of the network that moves a part"
    )
    alpha: float = Field(
        default=0.1, gt=0, description="factor on the network's output: p = p0 + alpha * projection * delta"
    )
    connectivity: bool = Field(
        default=True, description="project the parameters so that joints between parts stay closed"
    )
    symmetry_weight: float = Field(
        default=1.0,
        ge=0,
        description="weight of the chamfer between a deformed shape and its mirror image in x = 0",
    )


class RetrievalConfig(Section):
    """The retrieval space, its distribution over sources (Eq. 1) and its loss (Eq. 2)."""

    sigma0: float = Field(
        default=5.0,
        gt=0,
        description="sigma_0 of Eq. 1: P_R = softmax(-d^2 / sigma0^2). The paper: 100, its code: 10",
    )
    num_candidates: int = Field(
        default=10, ge=1, description="K, the sources drawn for a target at each step"
    )
    source_embedding: Literal["encoder", "code"] = Field(
        default="encoder",
        description="a source's place in the retrieval space: encoded from its points, or a learned code",
    )
    embedding: int = Field(default=256, ge=1, description="dimensions of the retrieval space")
    loss: Literal["cross_entropy", "l1"] = Field(
        default="cross_entropy",
        description="how Eq. 2 compares p_R with p_fit over the K candidates. The paper: l1",
    )
    fit_scale: Literal["spread", "entropy", "learned"] = Field(
        default="spread",
        description="what sharpens p_fit: spread = softmax(-c L_fit), c matched to the spread of L_fit over the K; "
        "entropy = c such that effective_candidates remain; learned = exp(-L_fit^2 / sigma_k^2). The paper: learned",
    )
    spread_factor: float = Field(
        default=3.5, gt=0, description="c = spread_factor / std_k(L_fit), where fit_scale is spread"
    )
    effective_candidates: float = Field(
        default=3.0,
        gt=1,
        description="exp(entropy) of p_fit aimed at where fit_scale is entropy, and the start where it is learned",
    )
    refresh_steps: int = Field(
        default=50,
        ge=1,
        description="the oldest, in steps, that a source's cached embedding may get before it is encoded again",
    )


class TrainConfig(Section):
    """The method, the budget and the optimiser."""

    method: Literal["ours", "uniform", "df"] = Field(
        default="ours",
        description="ours = candidates from P_R; uniform = candidates drawn uniformly, retrieval still trained; "
        "df = the deformation module alone on uniform pairs",
    )
    alternate: bool = Field(
        default=False,
        description="true: one module's loss a step, in turns (the paper); false: both losses every step",
    )
    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="optimiser. The paper: sgd")
    epochs: int = Field(default=60, ge=1, description="passes over the training targets. The paper: 300")
    batch_size: int = Field(default=16, ge=1, description="B, targets a step and a worker")
    learning_rate: float = Field(default=1e-3, gt=0, description="step size")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine",
        description="learning rate over the run: decayed to nearly zero by a cosine, or constant (the paper)",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="weight decay, of a code only when it is touched. The paper: 5e-4"
    )
    momentum: float = Field(
        default=0.9, ge=0, lt=1, description="momentum of sgd; adam has its own and ignores this"
    )
    warmup_epochs: int = Field(
        default=10,
        ge=0,
        description="first epochs whose candidates are drawn uniformly; part of epochs, not added to it",
    )
    num_workers: int = Field(
        default=1, ge=0, description="workers of Ray Train; 0 = in this process, without Ray"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto = cuda where there is one, else cpu"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="seed of everything random: weights, order, candidates"
    )
    validate_every: int = Field(
        default=5, ge=1, description="epochs between two validations; the best one's weights are kept"
    )
    checkpoint_every: int = Field(
        default=5, ge=1, description="epochs between two checkpoints to resume from"
    )


class BankConfig(Section):
    """Where the codes of the sources live."""

    num_shards: int = Field(default=1, ge=1, description="shards that the codes are cut into")
    lookahead: int = Field(
        default=0,
        ge=0,
        le=1,
        description="1: propose the next step's candidates with the codes of the step before",
    )


class RunConfig(Section):
    """Where the run is written and whether it goes on from an earlier one."""

    path: str = Field(min_length=1, description="run directory: resolved config, metrics, checkpoints")
    resume: str = Field(
        default="auto",
        min_length=1,
        description="auto = go on from run.path where it holds a checkpoint; never; or a run's path",
    )


class EvaluateConfig(Section):
    """How a trained run is measured."""

    split: Literal["train", "val", "test"] = Field(
        default="test", description="split of the dataset that is measured"
    )
    num_points: int = Field(
        default=2048, ge=32, description="points of a shape in the chamfer that is reported"
    )


class ClusterConfig(Section):
    """Where Ray runs."""

    address: OptionalText = Field(
        default=None,
        description="a Ray cluster: auto, or HOST:PORT; none = the one a job runs in, else one on this machine alone",
    )
    num_cpus: OptionalCount = Field(
        default=None,
        description="processors that a cluster on this machine may use; none = all. Ignored with an address",
    )
    object_store_mb: int = Field(
        default=512,
        ge=100,
        description="memory of the object store of a cluster on this machine, in MB; ignored with an address",
    )
    timeout: float = Field(
        default=120.0, gt=0, description="seconds to wait for the cluster before giving up"
    )


class Config(Section):
    """All settings of a run."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    train: TrainConfig = TrainConfig()
    bank: BankConfig = BankConfig()
    run: RunConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _settings_agree(self) -> Config:
        if self.data.encoder_points > self.data.num_points:
            raise _disagreement(
                f"data.encoder_points is {self.data.encoder_points}; allowed is at most data.num_points = "
                f"{self.data.num_points}, of which the encoders see the first; lower the one or raise the other"
            )
        if self.train.method == "ours" and self.train.warmup_epochs >= self.train.epochs:
            raise _disagreement(
                f"train.warmup_epochs is {self.train.warmup_epochs}; allowed is less than train.epochs = "
                f"{self.train.epochs}, or `ours` would never draw from P_R; lower the one or raise the other"
            )
        if self.train.method != "df" and self.retrieval.num_candidates < 2:
            raise _disagreement(
                f"retrieval.num_candidates is {self.retrieval.num_candidates}; allowed is 2 or more with train.method "
                f"{self.train.method}, for Eq. 2 compares candidates with one another; raise it or train df"
            )
        return self

    def to_yaml(self) -> str:
        """The whole tree as YAML; `load_config` of it gives an equal `Config`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten(config: Config) -> dict[str, Any]:
    """`{"section.key": value}` with plain values: tuples are lists, absent is None."""
    tree = config.model_dump(mode="json")
    return {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}


def setting_names() -> tuple[str, ...]:
    """Every `section.key`, in the order of this file."""
    return tuple(f"{section}.{key}" for section, model in _sections().items() for key in model.model_fields)


def load_config(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The settings of the YAML file `path` (None: the defaults alone), with `overrides` = {"section.key": value} on top.

    Values of `overrides` may be text as typed on a command line. Raises `InputError` with one line that names the setting.
    """
    tree = {} if path is None else _read_tree(Path(path))
    for name, value in (overrides or {}).items():
        section, _, key = name.partition(".")
        if name not in setting_names():
            raise _unknown(name, "the command line")
        tree.setdefault(section, {})[key] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_one_line(error, path, overrides or {})) from None


def _sections() -> dict[str, type[Section]]:
    return {
        name: field.annotation for name, field in Config.model_fields.items() if field.annotation is not None
    }


class _StrictLoader(yaml.SafeLoader):
    """YAML, but a key given twice is an error: plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _read_tree(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader) or {}  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise InputError(
            f"config file {path} can't be read ({error.strerror}); name an existing YAML file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        reason = getattr(error, "problem", None) or "no text in UTF-8"
        raise InputError(f"config file {path}{line} is no valid YAML ({reason}); correct it") from None
    if not isinstance(tree, dict):
        raise InputError(
            f"config file {path} holds a {type(tree).__name__}; allowed are sections: {_names(_sections())}"
        )
    for section, keys in tree.items():
        if str(section) not in _sections():
            raise _unknown(str(section), path)
        if keys is not None and not isinstance(keys, dict):
            raise InputError(
                f"section {section} in {path} is {keys!r}; allowed are keys: {_names(_keys(section))}"
            )
        for key in keys or {}:
            if str(key) not in _keys(section):
                raise _unknown(f"{section}.{key}", path)
    # A section whose keys are all commented out reads as None.
    return {section: dict(keys or {}) for section, keys in tree.items()}


def _keys(section: str) -> list[str]:
    return list(_sections()[section].model_fields)


def _names(names: Any) -> str:
    return ", ".join(names)


def _unknown(name: str, where: str | Path) -> InputError:
    """An unknown section or `section.key`, with the nearest one that exists."""
    section, _, key = name.partition(".")
    nearest = difflib.get_close_matches(name, [*setting_names(), *_sections()], n=1, cutoff=0.6)
    same_key = [known for known in setting_names() if key and known.endswith("." + key)]
    guess = (same_key or nearest)[:1]
    remedy = f"did you mean {guess[0]}?" if guess else "remove it"
    known = (
        f"{section} has {_names(_keys(section))}"
        if key and section in _sections()
        else f"sections are {_names(_sections())}"
    )
    return InputError(f"unknown setting {name} in {where}; {known}; {remedy}")


def _disagreement(message: str) -> PydanticCustomError:
    return PydanticCustomError("settings_disagree", "{message}", {"message": message})


def _one_line(error: ValidationError, path: str | Path | None, overrides: Mapping[str, Any]) -> str:
    details = error.errors()
    first = details[0]
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    if first["type"] == "settings_disagree":
        return first["msg"] + more
    name = ".".join(str(part) for part in first["loc"][:2])
    where = "" if name in overrides else f" in {path}" if path is not None else ""
    if first["type"] == "missing":
        # A section that is wholly absent is reported by its own name alone.
        name = name if "." in name else f"{name}.path"
        return f"setting {name} is missing{where}; give it in the config file or as --{name} VALUE{more}"
    return f"setting {name} is {_shown(first)}{where}; {_allowed(first)}; correct it, or pass --{name} VALUE{more}"


def _shown(detail: ErrorDetails) -> str:
    value = detail["input"]
    return "empty" if value in ("", (), []) else str(value)


def _allowed(detail: ErrorDetails) -> str:
    message = (
        detail["msg"]
        .replace("Input should be", "allowed is")
        .replace("Value should have", "allowed is to have")
    )
    return message.replace("'", "").replace(", not 0", "")
