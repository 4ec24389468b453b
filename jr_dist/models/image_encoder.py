"""ResNet: a picture to one code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jr_dist.errors import InputError

#: of ImageNet's pictures in [0, 1], a channel
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Name = Literal["resnet18", "resnet34", "resnet50"]
Layers = Literal["all", "last_stage", "head"]


class ImageEncoder(nn.Module):
    """The encoder E of the paper for pictures (section 2.2; He et al., CVPR 2016): torchvision's ResNet, its classifier
    replaced by one linear layer to the code, with no activation behind it.

    `layers` says which train: all, the last stage and the head, or the head alone. With `freeze_batch_norm` every batch
    norm keeps the statistics and weights that it has; without, those of layers that don't train still follow the
    batches, as they do in the code that the authors published. Raises `InputError` where torchvision is missing.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        name: Name,
        code: int,
        *,
        layers: Layers = "all",
        freeze_batch_norm: bool = False,
        precision: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._precision = precision
        self.resnet = getattr(_torchvision_models(), name)(weights=None)
        self.resnet.fc = nn.Linear(self.resnet.fc.in_features, code)
        self.register_buffer("mean", 255 * torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)
        self._freeze_batch_norm = freeze_batch_norm
        trained = {"all": ("",), "last_stage": ("layer4.", "fc."), "head": ("fc.",)}[layers]
        for parameter_name, parameter in self.resnet.named_parameters():
            parameter.requires_grad_(parameter_name.startswith(trained))
        if freeze_batch_norm:
            for norm in self._batch_norms():
                norm.requires_grad_(False)
        self.train(self.training)

    def forward(self, pictures: UInt8[Tensor, "M 3 S S"]) -> Float[Tensor, "M D"]:
        """Encode M RGB pictures; the normalisation to ImageNet's mean and deviation is done here.

        In training, convolutions are made in `precision` where one is given; codes are float32.
        """
        normed = (pictures.to(self.mean.dtype) - self.mean) / self.deviation
        if self._precision is None or not self.training:
            return self.resnet(normed)
        with torch.autocast(normed.device.type, dtype=self._precision):
            return self.resnet(normed).to(normed.dtype)

    def train(self, mode: bool = True) -> ImageEncoder:
        """As `nn.Module.train`; a batch norm that is frozen stays in evaluation mode."""
        super().train(mode)
        if self._freeze_batch_norm:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def start_from(self, weights: dict[str, Tensor], where: str) -> None:
        """Take over a ResNet's weights, all but its classifier's.

        Raises `InputError` naming `where` they come from if they are not those of this ResNet.
        """
        # Counts of batches are missing from old files, and nothing here reads them.
        kept, own = (
            {name: value for name, value in those.items() if not name.startswith("fc.") and "num_batches" not in name}
            for those in (weights, self.resnet.state_dict())
        )
        wrong = sorted(kept.keys() ^ own.keys()) or [n for n in own if kept[n].shape != own[n].shape]
        if wrong:
            raise InputError(
                f"model.encoder_weights {where} does not fit model.encoder ({wrong[0]} and {len(wrong) - 1} more are "
                "missing, unknown or of another shape); allowed is the state dict of the same torchvision ResNet; "
                "choose the other encoder or file"
            )
        self.resnet.load_state_dict(kept, strict=False)

    def _batch_norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.resnet.modules() if isinstance(module, nn.BatchNorm2d)]


def imagenet_weights(name: Name) -> dict[str, Tensor]:
    """torchvision's weights of a ResNet trained on ImageNet, from its cache or, with a check of the hash, downloaded.

    Raises `InputError` where they can't be had.
    """
    weights = _torchvision_models().get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"model.encoder_weights is imagenet, but {weights.url} can't be had ({error}); allowed offline is that "
            f"file in {cache}, none, or a safetensors file; copy it there or set one"
        ) from None


def _torchvision_models():
    try:
        from torchvision import models
    except ImportError as error:
        raise InputError(
            f"pictures need torchvision, which can't be imported ({error}); allowed is the version that "
            "constraints.txt names; pip install -c constraints.txt '.[images]' in the clone"
        ) from None
    return models
