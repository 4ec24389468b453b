"""The weights that ResNets start with (`model.encoder_weights`). A run's checkpoints hold them: they are read once."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from jr_dist.config import Config
from jr_dist.errors import InputError
from jr_dist.models.image_encoder import ImageEncoder, imagenet_weights
from jr_dist.models.networks import Networks
from jr_dist.train.state import build_networks


def start_encoders(config: Config, networks: Networks) -> None:
    """Put the weights into the encoders of pictures, whose heads stay as they were drawn.

    Raises `InputError` where the weights can't be had or are those of another network.
    """
    weights = _weights(config)
    for encoder in (networks.deformation_encoder, networks.retrieval_encoder):
        if isinstance(encoder, ImageEncoder) and weights is not None:
            encoder.start_from(weights, config.model.encoder_weights)


def check_encoder_weights(config: Config) -> None:
    """Raise `InputError` as `start_encoders` does; ImageNet's are downloaded where they are not in torch's cache."""
    start_encoders(config, build_networks(config))


def _weights(config: Config) -> dict[str, Tensor] | None:
    name, given = config.model.encoder, config.model.encoder_weights
    if name == "pointnet" or given == "none":
        return None
    if given == "imagenet":
        return imagenet_weights(name)
    try:
        return load_file(Path(given))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"model.encoder_weights {given} can't be read ({error}); allowed is imagenet, none, or a state dict as a "
            "safetensors file; save a .pth file as one: safetensors.torch.save_file(state_dict, PATH)"
        ) from None
