"""Settings that don't agree with each other, said in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jr_dist.config import Config

#: methods whose retrieval loss compares the K candidates of a step
_COMPARING = ("ours", "ours_ido", "uniform", "dar", "fit_aware")


def disagreement(config: Config) -> str | None:
    """What is wrong with the settings taken together, what is allowed and what to change; None where all is well."""
    return _of_training(config) or _of_pictures(config)


def _of_training(config: Config) -> str | None:
    data, retrieval, train = config.data, config.retrieval, config.train
    if data.encoder_points > data.num_points:
        return (
            f"setting data.encoder_points is {data.encoder_points}; allowed is at most data.num_points = "
            f"{data.num_points}, of which the encoders see the first; lower the one or raise the other"
        )
    if train.method in ("ours", "ours_ido") and train.warmup_epochs >= train.epochs:
        return (
            f"setting train.warmup_epochs is {train.warmup_epochs}; allowed is less than train.epochs = "
            f"{train.epochs}, or `{train.method}` would never draw from P_R; lower the one or raise the other"
        )
    if retrieval.fit_scale != "spread" and retrieval.effective_candidates >= retrieval.num_candidates:
        return (
            f"setting retrieval.effective_candidates is {retrieval.effective_candidates:g}; allowed is less than "
            f"retrieval.num_candidates = {retrieval.num_candidates}, among which they are counted; lower it"
        )
    if train.method in _COMPARING and retrieval.num_candidates < 2:
        return (
            f"setting retrieval.num_candidates is {retrieval.num_candidates}; allowed is 2 or more with "
            f"train.method {train.method}, which compares candidates; raise it or train df"
        )
    return None


def _of_pictures(config: Config) -> str | None:
    data, model, retrieval = config.data, config.model, config.retrieval
    if data.images == "none":
        if model.encoder != "pointnet":
            return (
                f"setting model.encoder is {model.encoder}, which sees pictures, but data.images is none; allowed is "
                "pointnet; set that, or data.images files or render"
            )
        for name, value, alone in (
            ("data.augment", data.augment, "photo"),
            ("retrieval.source_embedding", retrieval.source_embedding, "renders"),
        ):
            if value == alone:
                return (
                    f"setting {name} is {alone}, but data.images is none; allowed is {alone} with pictures alone; "
                    "change it, or set data.images files or render"
                )
        return None
    if model.encoder == "pointnet":
        return (
            f"setting model.encoder is pointnet, which sees points, but data.images is {data.images}; allowed are "
            "resnet18, resnet34, resnet50; set one, or data.images none"
        )
    if data.observed != "full":
        return (
            f"setting data.observed is {data.observed}, but data.images is {data.images}; allowed is full: what a "
            "picture shows is its view; set that, or data.images none"
        )
    if config.train.method == "ae":
        return (
            f"setting train.method is ae, which decodes the points it has seen, but data.images is {data.images}; "
            "allowed are the other methods; choose one, or data.images none"
        )
    if model.encoder_weights == "none":
        if model.encoder_layers != "all":
            return (
                f"setting model.encoder_layers is {model.encoder_layers}, but model.encoder_weights is none: the other "
                "layers would stay as they were drawn; allowed is all; set that, or model.encoder_weights imagenet"
            )
        if model.freeze_batch_norm:
            return (
                "setting model.freeze_batch_norm is true, but model.encoder_weights is none: there are no statistics "
                "to keep; allowed is false; set that, or model.encoder_weights imagenet"
            )
    return None
