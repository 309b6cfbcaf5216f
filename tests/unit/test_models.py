"""Judges model folders: what is there, whole, a causal language model, and nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest

from runner.contract.models import (
    describe_model,
    fetch_command,
    find_model,
    longest_context,
    models_on_box,
)
from runner.errors import ModelError


@pytest.fixture
def models(tmp_path, tiny_model):
    """Give a models folder with one good model, as a name and as a hub id."""
    root = tmp_path / "models"
    shutil.copytree(tiny_model, root / "tiny")
    shutil.copytree(root / "tiny", root / "org" / "tiny", copy_function=os.link)
    return root


def test_a_name_and_a_hub_id_are_found(models):
    """Both lie under models/ as they are written."""
    assert find_model(models, "tiny") == models / "tiny"
    assert find_model(models, "org/tiny") == models / "org" / "tiny"
    assert models_on_box(models) == ["org/tiny", "tiny"]


def test_what_is_recorded_of_a_model(models):
    """Its size and a hash that depends on the weights."""
    facts = describe_model(models / "tiny", "tiny")
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.parameters > 30_000_000
    assert facts.sha256 == describe_model(models / "org/tiny", "tiny").sha256


@pytest.mark.parametrize("name", ["../tiny", "/etc", "org/tiny/x", ".hidden", "a\\b", "", "a\0"])
def test_names_that_are_none(name, models):
    """Nothing outside models/ can be named."""
    with pytest.raises(ModelError, match="not the name"):
        find_model(models, name)


def test_a_missing_model_names_the_command(models):
    """And the near one that is there."""
    with pytest.raises(ModelError, match="runner fetch org/big"):
        find_model(models, "org/big")
    with pytest.raises(ModelError, match=r"Did you mean tiny\?.* runner fetch ORGANISATION/tinny"):
        find_model(models, "tinny")
    with pytest.raises(ModelError, match="runner fetch demo"):
        find_model(models, "smollm2-135m-instruct")


def config(models, **changes):
    """Change the good model's config."""
    path = models / "tiny" / "config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.unlink()
    path.write_text(json.dumps(content))


def test_other_kinds_of_models_are_refused(models):
    """Only text generation is trained."""
    config(models, architectures=["BertForMaskedLM"], model_type="bert")
    with pytest.raises(ModelError, match="from both sides"):
        find_model(models, "tiny")


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_broken_config_is_told(content, models):
    """With the command that fetches the model again."""
    (models / "tiny" / "config.json").unlink()
    (models / "tiny" / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        find_model(models, "tiny")


def weights(models):
    """Give the good model's weight file."""
    return models / "tiny" / "model.safetensors"


def test_pickled_weights_are_refused(models):
    """They can run code."""
    weights(models).rename(weights(models).with_name("pytorch_model.bin"))
    with pytest.raises(ModelError, match="pickled"):
        find_model(models, "tiny")


def test_a_download_that_broke_off_is_noticed(models):
    """The header says how long the file must be."""
    content = weights(models).read_bytes()
    weights(models).unlink()
    weights(models).write_bytes(content[:-10])
    with pytest.raises(ModelError, match="cut off"):
        find_model(models, "tiny")


def test_a_missing_shard_is_named(models):
    """The index says which files there must be."""
    index = {"weight_map": {"a": "model.safetensors", "b": "gone.safetensors"}}
    (models / "tiny" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"gone\.safetensors"):
        find_model(models, "tiny")


def test_links_may_not_leave_the_models_folder(models, tmp_path):
    """A link within is the hub cache's habit; one that leads out is refused."""
    blob = models / "blob"
    weights(models).rename(blob)
    weights(models).symlink_to(blob)
    assert find_model(models, "tiny")
    blob.rename(tmp_path / "blob")
    weights(models).unlink()
    weights(models).symlink_to(tmp_path / "blob")
    with pytest.raises(ModelError, match="leaves"):
        find_model(models, "tiny")


def test_the_context_is_read_where_the_config_tells_it():
    """Older architectures have names of their own."""
    assert longest_context({"max_position_embeddings": 8192}) == 8192
    assert longest_context({"n_positions": 1024}) == 1024
    assert longest_context({"max_position_embeddings": True}) is None


def test_the_image_names_the_service_that_has_a_network(monkeypatch):
    """An answer written in the container names a command that works there."""
    assert fetch_command("org/model") == "runner fetch org/model"
    monkeypatch.setattr("sys.prefix", "/opt/runner")
    assert fetch_command("org/model") == "docker compose run --rm fetch org/model"
    text = (Path(__file__).parents[2] / "Dockerfile").read_text()
    assert "python -m venv /opt/runner" in text
