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


def test_shards_without_their_list_are_refused(models):
    """A download that brought one of two files, and no index, is no whole model."""
    weights(models).rename(models / "tiny" / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match="in part") as refused:
        find_model(models, "tiny")
    assert "model-00001-of-00002.safetensors" in str(refused.value)
    assert "runner fetch" in str(refused.value)


def test_weights_that_lie_there_twice_count_once(models):
    """Mistral's folders hold consolidated.safetensors beside the files that are loaded."""
    before = describe_model(models / "tiny", "tiny").parameters
    (models / "tiny" / "consolidated.safetensors").write_bytes(weights(models).read_bytes())
    assert describe_model(find_model(models, "tiny"), "tiny").parameters == before


def test_an_adapter_beside_the_weights_is_refused(models):
    """Transformers would load the base that the adapter names, whatever lies in the folder."""
    config = {"base_model_name_or_path": "org/other", "peft_type": "LORA"}
    (models / "tiny" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="an adapter") as refused:
        find_model(models, "tiny")
    assert "Move adapter_config.json" in str(refused.value)


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
def test_what_git_leaves_in_the_place_of_a_large_file_is_named(file, models):
    """A folder that was cloned without git-lfs holds a few lines in its place."""
    path = models / "tiny" / file
    path.unlink(missing_ok=True)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n")
    with pytest.raises(ModelError, match="git-lfs") as refused:
        find_model(models, "tiny")
    assert file in str(refused.value)


def test_files_of_two_models_are_refused(models):
    """A config with another number of tokens would end the training when the weights are loaded."""
    path = models / "tiny" / "config.json"
    config = json.loads(path.read_text())
    known = config["vocab_size"]
    path.unlink()
    path.write_text(json.dumps({**config, "vocab_size": known + 1}))
    with pytest.raises(ModelError, match="files of two models") as refused:
        find_model(models, "tiny")
    assert f"says {known + 1} tokens, and the weights have {known}" in str(refused.value)


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
