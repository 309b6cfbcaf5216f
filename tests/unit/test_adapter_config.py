"""adapter_config.json is read by PEFT 0.11 and by programs that are not PEFT."""

import json

import pytest
from peft import LoraConfig

from runner.training.export.adapter_config import ALWAYS, DEFAULTS, hand_over_config

PEFT_0_11 = {
    "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "task_type",
    "inference_mode", "r", "target_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias",
    "use_rslora", "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern",
    "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core", "loftq_config", "use_dora",
    "layer_replication", "runtime_config",
}  # fmt: skip
"""The fields of LoraConfig in PEFT 0.11.1; any other key was a TypeError there."""


def saved(tmp_path, **changes):
    """Give a configuration as PEFT writes it."""
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], **changes)
    config.save_pretrained(tmp_path)
    return json.loads((tmp_path / "adapter_config.json").read_text())


def test_the_defaults_are_pefts_own(tmp_path):
    """A key that PEFT gained, or a default that it changed, is noticed here."""
    LoraConfig().save_pretrained(tmp_path)
    theirs = json.loads((tmp_path / "adapter_config.json").read_text())
    assert {k: v for k, v in theirs.items() if k not in {*ALWAYS, "peft_version"}} == DEFAULTS


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_rslora": True}, {"lora_dropout": 0.1}, {"lora_alpha": 24.5}, {"r": 8},
     {"modules_to_save": ["lm_head"]}, {"rank_pattern": {"q_proj": 4}}, {"use_dora": True},
     {"init_lora_weights": False}, {"layers_to_transform": [0]}],
)  # fmt: skip
def test_peft_0_11_knows_every_key_and_nothing_is_lost(changes, tmp_path):
    """What is left out is at its default: read again, it is the same configuration."""
    config = saved(tmp_path, **changes)
    handed = hand_over_config(config, base="org/name")
    assert handed.keys() <= PEFT_0_11
    assert not [k for k in handed if k in DEFAULTS and handed[k] == DEFAULTS[k]]
    assert handed["base_model_name_or_path"] == "org/name"
    (tmp_path / "adapter_config.json").write_text(json.dumps(handed))
    again = LoraConfig.from_pretrained(tmp_path).to_dict() | {"base_model_name_or_path": None}
    wanted = LoraConfig(**config).to_dict()
    assert again | {"target_modules": None} == wanted | {"target_modules": None}
    assert sorted(handed["target_modules"]) == ["q_proj", "v_proj"]


@pytest.mark.parametrize(("alpha", "written"), [(32.0, "32"), (32, "32"), (24.5, "24.5")])
def test_a_whole_alpha_is_written_as_a_whole_number(alpha, written, tmp_path):
    """Ollama reads it into a uint32."""
    handed = hand_over_config(saved(tmp_path, lora_alpha=alpha), base="b")
    assert f'  "lora_alpha": {written},' in json.dumps(handed, indent=2).splitlines()


def test_alphas_of_single_layers_are_whole_too(tmp_path):
    """They are read by the same programs."""
    handed = hand_over_config(saved(tmp_path, alpha_pattern={"q_proj": 16.0}), base="b")
    assert json.dumps(handed["alpha_pattern"]) == '{"q_proj": 16}'


def test_what_is_not_at_its_default_stays_even_where_old_peft_refuses_it(tmp_path):
    """Left out, the adapter would be another one."""
    handed = hand_over_config(saved(tmp_path, exclude_modules=["lm_head"]), base="b")
    assert handed["exclude_modules"] == ["lm_head"]
