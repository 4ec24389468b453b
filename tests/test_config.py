"""Settings: files and flags give one frozen tree, and each mistake is one line that names the setting."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jr_dist.config import Config, flatten, known_settings, load_config, sections
from jr_dist.errors import InputError

ROOT = Path(__file__).parent.parent
NEEDED = {"data.path": "data/x", "run.path": "runs/x"}
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def refusal(tmp_path: Path, text: str, **flags: str) -> str:
    """The message for a file of this text (with the two paths that are always needed) and these flags."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    overrides = {name.replace("__", "."): value for name, value in flags.items()}
    with pytest.raises(InputError) as refused:
        load_config(path, {**NEEDED, **overrides})
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_files_we_ship_load_and_survive_a_round_trip(path, tmp_path):
    config = load_config(path)
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "again.yaml") == config


@given(st.data())
def test_any_valid_override_beats_the_default_and_leaves_the_rest(data):
    settings = {
        "train.epochs": st.integers(11, 10**6),
        "train.learning_rate": st.floats(1e-9, 1e3),
        "train.method": st.sampled_from(["ours", "uniform", "df"]),
        "retrieval.sigma0": st.floats(1e-3, 1e3),
        "model.hidden": st.lists(st.integers(1, 4096), min_size=1, max_size=4),
        "model.connectivity": st.booleans(),
        "data.categories": st.none() | st.lists(st.text("abc", min_size=1), min_size=1, max_size=3),
    }
    chosen = data.draw(st.dictionaries(st.sampled_from(sorted(settings)), st.none()))
    overrides = {name: data.draw(settings[name]) for name in chosen}
    before, after = flatten(load_config(None, NEEDED)), flatten(load_config(None, {**NEEDED, **overrides}))
    assert after == {**before, **overrides}
    assert load_config(None, {**NEEDED, **{name: typed(value) for name, value in overrides.items()}}) == load_config(
        None, {**NEEDED, **overrides}
    )


def typed(value: object) -> str:
    """A value as it is typed on a command line."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def test_flags_beat_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {path: a}\nrun: {path: b}\ntrain: {epochs: 100}\n")
    assert load_config(tmp_path / "c.yaml").train.epochs == 100
    assert load_config(tmp_path / "c.yaml", {"train.epochs": "30"}).train.epochs == 30


def test_the_tree_is_frozen():
    config = load_config(None, NEEDED)
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 3


def test_every_setting_is_described():
    for section, model in sections().items():
        for key, field in model.model_fields.items():
            assert field.description, f"{section}.{key}"


def test_the_paper_is_the_paper():
    paper = load_config(ROOT / "configs" / "paper.yaml")
    assert (paper.retrieval.sigma0, paper.retrieval.num_candidates) == (100, 10)
    assert (paper.retrieval.loss, paper.retrieval.fit_scale) == ("l1", "learned")
    assert (paper.model.global_code, paper.model.part_code, paper.model.target_code) == (256, 32, 256)
    assert (paper.model.hidden, paper.model.alpha, paper.model.symmetry_weight) == ((512, 256), 0.1, 1.0)
    assert (paper.train.optimizer, paper.train.alternate, paper.train.schedule) == ("sgd", True, "constant")
    assert (paper.train.learning_rate, paper.train.momentum, paper.train.weight_decay) == (1e-3, 0.9, 5e-4)
    assert (paper.train.epochs, paper.train.batch_size, paper.data.num_points) == (300, 16, 2048)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("retrieval: {sigma: 3}", ["retrieval.sigma ", "did you mean retrieval.sigma0?"]),
        ("trian: {epochs: 3}", ["trian", "did you mean train?"]),
        ("model: {sigma0: 3}", ["model.sigma0", "did you mean retrieval.sigma0?"]),
        ("train: {epochs: 0}", ["train.epochs is 0", "greater than or equal to 1", "--train.epochs"]),
        ("train: {epochs: many}", ["train.epochs is many", "integer"]),
        ("train: {optimizer: adm}", ["train.optimizer is adm", "adam or sgd"]),
        ("train: {learning_rate: .inf}", ["train.learning_rate is inf", "finite"]),
        ("model: {hidden: []}", ["model.hidden is empty", "at least 1"]),
        ("model: {hidden: [8, 0]}", ["model.hidden is 0"]),
        ("train: {epochs: 3, warmup_epochs: 3}", ["train.warmup_epochs is 3", "train.epochs = 3"]),
        ("data: {num_points: 512}", ["data.encoder_points is 2048", "data.num_points = 512"]),
        ("retrieval: {num_candidates: 1}", ["retrieval.num_candidates is 1", "2 or more"]),
        ("train: 3", ["section train", "3"]),
        ("[1, 2]", ["list", "sections"]),
        ("train: {epochs: 3", ["no valid YAML"]),
        ("train:\n  epochs: 30\n  epochs: 40\n", ["line 3", "epochs is given twice"]),
    ],
)
def test_a_mistake_in_the_file_names_file_setting_value_and_remedy(tmp_path, text, words):
    message = refusal(tmp_path, text)
    missing = [word for word in words if word not in message]
    assert not missing, message


def test_a_mistake_in_a_flag_does_not_blame_the_file(tmp_path):
    assert "config.yaml" not in refusal(tmp_path, "", train__epochs="x")
    assert "config.yaml" in refusal(tmp_path, "train: {epochs: x}")


def test_an_unknown_flag_and_missing_paths_are_named():
    with pytest.raises(InputError, match=r"train\.epoch in the command line.*did you mean train\.epochs"):
        load_config(None, {**NEEDED, "train.epoch": "3"})
    with pytest.raises(InputError, match=r"data\.path is missing.*--data\.path"):
        load_config(None, {"run.path": "x"})
    with pytest.raises(InputError, match=r"nowhere\.yaml can't be read"):
        load_config("nowhere.yaml")


def test_flatten_and_yaml_hold_every_setting():
    config = load_config(None, NEEDED)
    names = [f"{section}.{key}" for section, keys in known_settings().items() for key in keys]
    assert list(flatten(config)) == names
    assert list(yaml.safe_load(config.to_yaml())) == list(Config.model_fields)
