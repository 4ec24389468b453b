"""ResNets as encoders: normalised input, the layers that train, batch norm, and where their weights come from."""

from __future__ import annotations

import sys
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from jr_dist.config import load_config
from jr_dist.errors import InputError
from jr_dist.models.image_encoder import DEVIATION, MEAN, ImageEncoder
from jr_dist.train.encoder_weights import start_encoders
from jr_dist.train.state import build_networks

IMAGES = {
    "data.path": "data/x", "run.path": "runs/x", "data.images": "render", "data.image_size": 32,
    "model.encoder": "resnet18", "model.encoder_weights": "none", "model.encoder_layers": "all",
}  # fmt: skip


def pictures(count: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture(scope="module")
def theirs() -> dict[str, torch.Tensor]:
    """The state dict of a ResNet-18 whose batch norms have seen something."""
    torch.manual_seed(3)
    resnet = models.resnet18()
    resnet(torch.randn(8, 3, 32, 32))
    return resnet.state_dict()


def test_a_picture_is_normalised_as_imagenet_and_encoded_by_torchvisions_resnet():
    encoder = ImageEncoder("resnet18", 16).eval()
    values = (pictures().float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    code = encoder(pictures())
    assert code.shape == (4, 16)
    torch.testing.assert_close(code, encoder.resnet(values), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize(("layers", "trained"), [
    ("all", ("conv1", "bn1", "layer", "fc")), ("last_stage", ("layer4", "fc")), ("head", ("fc",)),
])  # fmt: skip
def test_a_step_moves_the_layers_that_train_and_no_other_bit(theirs, layers, trained, freeze):
    encoder = ImageEncoder("resnet18", 8, layers=layers, freeze_batch_norm=freeze)
    encoder.start_from(theirs, "a file")
    before = {name: value.clone() for name, value in encoder.resnet.state_dict().items()}
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    encoder.eval().train()  # as around a validation
    encoder(pictures()).square().sum().backward()
    optimiser.step()
    after = encoder.resnet.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    norms = {name for name, module in encoder.resnet.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    statistics = {f"{norm}.{name}" for norm in norms for name in ("running_mean", "running_var", "num_batches_tracked")}
    weights = {name for name in before.keys() - statistics if name.startswith(trained)}
    if freeze:
        weights -= {f"{norm}.{name}" for norm in norms for name in ("weight", "bias")}
        assert moved == weights
    else:
        assert moved == weights | statistics  # frozen layers follow the batches, as in the published code


def test_first_weights_come_from_a_file_into_both_encoders_but_not_into_their_heads(theirs, tmp_path):
    save_file(theirs, tmp_path / "resnet.safetensors")
    config = load_config(None, {**IMAGES, "model.encoder_weights": str(tmp_path / "resnet.safetensors")})
    networks, drawn = build_networks(config), build_networks(config)
    start_encoders(config, networks)
    for name in ("deformation_encoder", "retrieval_encoder"):
        ours, fresh = (getattr(each, name).resnet.state_dict() for each in (networks, drawn))
        for key, value in ours.items():
            if "num_batches" in key:
                continue
            assert torch.equal(value, fresh[key] if key.startswith("fc.") else theirs[key]), key


def test_old_files_without_counts_of_batches_are_taken(theirs):
    old = {name: value for name, value in theirs.items() if "num_batches" not in name}
    encoder = ImageEncoder("resnet18", 8)
    encoder.start_from(old, "a file")
    assert torch.equal(encoder.resnet.state_dict()["bn1.running_mean"], theirs["bn1.running_mean"])


def test_weights_that_cannot_be_used_are_named(theirs, tmp_path):
    torch.save(theirs, tmp_path / "resnet.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    save_file(theirs, tmp_path / "resnet.safetensors")
    for file, encoder, said in [
        ("missing.safetensors", "resnet18", "can't be read.*allowed is imagenet, none, or"),
        ("resnet.pth", "resnet18", r"can't be read.*safetensors.torch.save_file"),
        ("text.safetensors", "resnet18", "can't be read"),
        ("other.safetensors", "resnet18", "does not fit model.encoder"),
        ("resnet.safetensors", "resnet34", "does not fit model.encoder"),
        ("resnet.safetensors", "resnet50", "does not fit model.encoder"),
    ]:
        given = {"model.encoder": encoder, "model.encoder_weights": str(tmp_path / file)}
        config = load_config(None, {**IMAGES, **given})
        with pytest.raises(InputError, match=said) as refused:
            start_encoders(config, build_networks(config))
        assert "\n" not in str(refused.value) and file in str(refused.value)


def test_imagenet_comes_from_torchvision_and_offline_the_remedy_is_named(theirs, tmp_path, monkeypatch):
    config = load_config(None, {**IMAGES, "model.encoder_weights": "imagenet"})
    asked = {}

    def fetched(url, **options):
        asked.update(options, url=url)
        return theirs

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)
    networks = build_networks(config)
    start_encoders(config, networks)
    assert torch.equal(networks.retrieval_encoder.state_dict()["resnet.conv1.weight"], theirs["conv1.weight"])
    assert asked["check_hash"] and asked["weights_only"] and "resnet18" in asked["url"]

    def offline(url, **options):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"no route to host.*allowed offline is that file in") as refused:
        start_encoders(config, networks)
    assert str(Path(tmp_path, "hub", "checkpoints")) in str(refused.value) and "\n" not in str(refused.value)


def test_without_torchvision_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match=r"need torchvision.*pip install -c constraints.txt '\.\[images\]'"):
        ImageEncoder("resnet18", 8)
