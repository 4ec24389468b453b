"""One frozen tree of settings: what each is for, what is allowed, the paper's value where ours differs.

A setting is named `section.key` everywhere: in the YAML file (`section:`, then `key: value`), on the command
line (`--section.key value`) and in messages. `geometry/` and `models/` take plain arguments and don't import
this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from jr_dist.config_agreement import disagreement
from jr_dist.config_file import Known, invalid_value, read_tree, unknown_setting
from jr_dist.config_section import (
    Names,
    OptionalCount,
    OptionalNames,
    OptionalText,
    Section,
    Widths,
    split_commas,
)
from jr_dist.config_sweep import SweepConfig
from jr_dist.locations import AnyPath, as_path


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
    observed: Literal["full", "partial"] = Field(
        default="full",
        description="what training shows of a target: full = all of it; partial = what a half-space or one depth view "
        "leaves, 0 to 75 % missing, in the frame of what is left; the fitting loss is against the whole either way",
    )
    images: Literal["none", "files", "render"] = Field(
        default="none",
        description="what encoders see of a target: none = its points; files = pictures that `jr-dist render` left; "
        "render = pictures made while training reads them",
    )
    image_size: int = Field(default=224, ge=32, le=1024, description="pixels of a picture's side")
    num_views: int = Field(default=24, ge=1, description="views of a shape where images is render")
    augment: Literal["none", "photo"] = Field(
        default="none",
        description="none = framed on a plain background (the paper); photo = like photographs: crops, backgrounds, "
        "colour, blur, JPEG, occlusion",
    )
    image_tasks: int = Field(
        default=1, ge=1, description="tasks that make the pictures of a worker at the same time; for a GPU several"
    )


class ModelConfig(Section):
    """The encoders and the structure-aware deformation module (section 2.2)."""

    encoder: Literal["pointnet", "resnet18", "resnet34", "resnet50"] = Field(
        default="pointnet", description="what encodes a target: pointnet its points, a resnet a picture of it"
    )
    encoder_channels: Widths = Field(
        default=(64, 64, 64, 128, 1024),
        description="widths of a pointnet's layers shared by the points, up to the max-pooling",
    )
    encoder_weights: str = Field(
        default="imagenet",
        min_length=1,
        description="first weights of a resnet: imagenet (the paper), none, or a state dict of torchvision's as a "
        "safetensors file",
    )
    encoder_layers: Literal["all", "last_stage", "head"] = Field(
        default="last_stage",
        description="which layers of a resnet train. The paper's code: last_stage, and the head with it",
    )
    freeze_batch_norm: bool = Field(
        default=False,
        description="a resnet's batch norm keeps the statistics and weights it starts with. The paper's code: false",
    )
    global_code: int = Field(default=256, ge=1, description="width of a source's global code")
    part_code: int = Field(default=32, ge=1, description="width of a part's code")
    target_code: int = Field(default=256, ge=1, description="width of the encoded target")
    hidden: Widths = Field(default=(512, 256), description="widths of the hidden layers that move a part")
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
        description="sigma_0 of Eq. 1: P_R = softmax(-d^2 / sigma0^2). The paper: 100; its code: 10",
    )
    num_candidates: int = Field(default=10, ge=1, description="K, the sources drawn for a target at each step")
    source_embedding: Literal["encoder", "renders", "code"] = Field(
        default="encoder",
        description="a source's place in the retrieval space: encoded from its points, the mean of its encoded "
        "pictures, or a learned code",
    )
    source_views: int = Field(default=4, ge=1, description="pictures of a source, where source_embedding is renders")
    embedding: int = Field(default=256, ge=1, description="dimensions of the retrieval space")
    loss: Literal["cross_entropy", "l1"] = Field(
        default="cross_entropy",
        description="how Eq. 2 compares p_R with p_fit over the K candidates. The paper: l1",
    )
    fit_scale: Literal["spread", "entropy", "learned"] = Field(
        default="spread",
        description="what sharpens p_fit: spread = softmax(-c L_fit), c matched to the spread of L_fit over "
        "the K; entropy = the same, c such that effective_candidates remain; learned = softmax(-L_fit^2 / "
        "sigma_k^2). The paper: learned",
    )
    spread_factor: float = Field(
        default=3.5, gt=0, description="c = spread_factor / std_k(L_fit), where fit_scale is spread"
    )
    effective_candidates: float = Field(
        default=3.0,
        gt=1,
        description="exp(entropy) of p_fit: kept where fit_scale is entropy, the start where it is learned",
    )
    refresh_steps: int = Field(
        default=50, ge=1, description="the oldest, in steps, that a cached source embedding may get"
    )
    dar_loss: Literal["margin", "regression"] = Field(
        default="regression",
        description="how dar learns: margin = the worst of the candidates that fit well stays nearer than those that "
        "don't; regression = Eq. 2 with the deformation module held fixed",
    )
    margin: float = Field(default=10.0, gt=0, description="by how much, in d_R^2, where dar_loss is margin")


class TrainConfig(Section):
    """The method, the budget and the optimiser."""

    method: Literal["ours", "ours_ido", "uniform", "df", "dar", "mds", "ae", "fit_aware"] = Field(
        default="ours",
        description="ours = candidates drawn from P_R; ours_ido = the same, the deformation module supervised by IDO; "
        "uniform = drawn uniformly, retrieval trained as well; df = the deformation module alone, on uniform pairs; "
        "dar = deformation-aware retrieval for a df run; mds = retrieval by undeformed chamfer; ae = by an "
        "autoencoder; fit_aware = retrieval trained on the fit after IDO, for an ours run",
    )
    teacher: OptionalText = Field(
        default=None,
        description="the run whose deformation module a method that trains retrieval alone takes over and keeps: a df "
        "run for dar, an ours run for fit_aware",
    )
    alternate: bool = Field(
        default=False,
        description="true = one module's loss a step, in turns (the paper); false = both every step",
    )
    optimizer: Literal["adam", "sgd"] = Field(default="adam", description="optimiser. The paper: sgd")
    epochs: int = Field(default=60, ge=1, description="passes over the training targets. The paper: 300")
    batch_size: int = Field(default=16, ge=1, description="B, targets a step and a worker")
    learning_rate: float = Field(default=1e-3, gt=0, description="step size, at the start")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine",
        description="the step size decays to nearly zero by a cosine, or is constant (the paper)",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="weight decay; a code decays when it is touched. The paper: 5e-4"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd; adam has its own and ignores this")
    warmup_epochs: int = Field(
        default=10, ge=0, description="first epochs whose candidates are drawn uniformly; part of epochs"
    )
    num_workers: int = Field(default=1, ge=0, description="workers of Ray Train; 0 = in this process, without Ray")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto = cuda where there is one, else cpu"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="what encoders multiply in while they train; all else is float32 either way"
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of all that is random: weights, order, candidates")
    validate_every: int = Field(
        default=5, ge=1, description="epochs between two validations; the weights of the best are kept"
    )
    checkpoint_every: int = Field(default=5, ge=1, description="epochs between two checkpoints to resume from")


class BankConfig(Section):
    """Where the codes of the sources live."""

    num_shards: int = Field(
        default=1,
        ge=1,
        description="shards that the codes are cut into; with several workers or shards each is an actor of its own, "
        "else the one worker holds the one shard. The result doesn't depend on it",
    )
    block_size: int = Field(
        default=256, ge=1, description="sources a block: what a shard has a whole number of, and a checkpoint a file of"
    )
    lookahead: int = Field(
        default=0,
        ge=0,
        le=1,
        description="1 = a step's candidates are proposed with the codes of the step before, while that step computes",
    )


class RunConfig(Section):
    """Where the run is written and whether it goes on from an earlier one."""

    path: str = Field(min_length=1, description="run directory: resolved config, metrics, checkpoints")
    resume: str = Field(
        default="auto",
        min_length=1,
        description="auto = go on from run.path where it holds a checkpoint; never; or another run's path",
    )


class IdoConfig(Section):
    """IDO, inner deformation optimisation: as a teacher, as labels for retrieval, at test time."""

    iterations: int = Field(default=12, ge=1, description="exact solves a pair at test time")
    teacher_iterations: int = Field(
        default=4, ge=1, description="exact solves a pair in a training step of ours_ido, from the network's parameters"
    )
    teacher_weight: float = Field(
        default=1.0,
        gt=0,
        description="weight, in a step of ours_ido, of the squared distance from the points to where IDO puts them",
    )
    prior_weight: float = Field(
        default=0.01, gt=0, description="pull towards the network's parameters, where a target is seen in part"
    )
    mirror: bool = Field(
        default=True, description="add the mirror image of what is seen, where a target is seen in part"
    )


class LabelsConfig(Section):
    """What fit_aware learns from: the chamfer of pairs after IDO, computed once for a dataset."""

    path: OptionalText = Field(
        default=None, description="where labels are kept, for several runs to share; none = labels/ in the run"
    )
    sources: OptionalCount = Field(
        default=None,
        description="sources labelled for each target: half those nearest after coarse alignment, half drawn; none = "
        "all of them",
    )
    copies: int = Field(
        default=3,
        ge=0,
        description="stretched copies of each training target that are labelled too, and seen in each step of it",
    )
    iterations: int = Field(default=3, ge=1, description="exact solves a pair, from each of two starts")
    num_points: int = Field(default=512, ge=32, description="points of a shape in them")
    step_sources: int = Field(default=256, ge=2, description="sources whose labels a training step compares, at most")
    sigma0: float = Field(
        default=1.0, gt=0, description="sigma_0 of Eq. 1 in training, over all sources: sharper than over K candidates"
    )
    spread_factor: float = Field(
        default=1.5,
        gt=0,
        description="c = spread_factor / std of a target's retrieval.num_candidates best labels, which sharpens them",
    )
    num_workers: int = Field(default=0, ge=0, description="actors that compute them; 0 = this process")


class EvaluateConfig(Section):
    """How a trained run is measured."""

    split: Literal["train", "val", "test"] = Field(default="test", description="split of the dataset that is measured")
    num_points: int = Field(default=2048, ge=32, description="points of a shape in the chamfer reported")
    protocols: Names = Field(
        default=("full",),
        description="what is observed of a target: full; partial-25, -50, -75 (a half-space, per cent missing); "
        "view-25, -50, -75 (one depth view); noise-1, noise-3 (per cent of the half-diagonal); up, yaw (unknown). "
        "Of runs trained on pictures: image; image-front, -side, -back; image-unseen (other materials and lights)",
    )
    ido: bool = Field(default=True, description="rows with IDO at test time, too")
    num_workers: int = Field(default=0, ge=0, description="actors of Ray that measure; 0 = this process")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs, or the share of one, of each of them")


class CompareConfig(Section):
    """What `compare` trains and puts into one table."""

    methods: Names = Field(
        default=("mds", "ae", "df", "dar", "uniform", "ours", "ours_ido", "fit_aware"),
        description="train.method of each, or letter: ours with the paper's settings; teachers are trained first",
    )
    seeds: Annotated[tuple[int, ...], BeforeValidator(split_commas), Field(min_length=1)] = Field(
        default=(0,), description="train.seed of each, as in 0,1,2"
    )
    per_category: bool = Field(
        default=False, description="true = one run a category, as the paper's tables; false = one for all together"
    )
    side_by_side: int = Field(default=1, ge=1, description="runs trained at the same time")


class ClusterConfig(Section):
    """Where Ray runs."""

    address: OptionalText = Field(
        default=None,
        description="a Ray cluster, auto or HOST:PORT; none = the one a job runs in, else one started here",
    )
    num_cpus: OptionalCount = Field(
        default=None, description="processors for a cluster started here; none = all, and two at least"
    )
    object_store_mb: int = Field(
        default=512, ge=100, description="MB of shared memory, at most, for a cluster started here"
    )
    timeout: float = Field(
        default=120.0,
        gt=0,
        description="seconds to wait for a cluster that has an address, and for its nodes where it does not grow",
    )
    grow_timeout: float = Field(
        default=1200.0, gt=0, description="seconds that a cluster may take to grow to what a job asks for"
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
    ido: IdoConfig = IdoConfig()
    labels: LabelsConfig = LabelsConfig()
    compare: CompareConfig = CompareConfig()
    sweep: SweepConfig = SweepConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _settings_agree(self) -> Config:
        message = disagreement(self)
        if message is not None:
            raise PydanticCustomError("settings_disagree", "{message}", {"message": message})
        return self

    def to_yaml(self) -> str:
        """The whole tree as YAML; `load_config` of it gives an equal `Config`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def sections() -> dict[str, type[Section]]:
    """The class of each section, in the order of this file."""
    return {
        section: field.annotation
        for section, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def known_settings() -> Known:
    """Every section and its keys."""
    return {section: tuple(model.model_fields) for section, model in sections().items()}


def flatten(config: Config) -> dict[str, Any]:
    """`{"section.key": value}` with plain values: tuples are lists, absent is None."""
    tree = config.model_dump(mode="json")
    return {f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()}


def load_config(path: str | AnyPath | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The settings of the YAML file `path` (None: the defaults), with `overrides` on top.

    `overrides` = {"section.key": value}; a value may be text, as typed on a command line. Raises `InputError`
    with one line that names the setting.
    """
    known = known_settings()
    tree = {} if path is None else read_tree(as_path(path), known)
    for name, value in (overrides or {}).items():
        section, _, key = name.partition(".")
        if key not in known.get(section, ()):
            raise unknown_setting(name, "the command line", known)
        tree.setdefault(section, {})[key] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise invalid_value(error, path, overrides or {}) from None
