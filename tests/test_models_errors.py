"""Every model that cannot be used is refused by name, before anything is written."""

import json

import pytest
import torch
import transformers

from handrail.batch import Sequences
from handrail.errors import ModelError
from handrail.models import (
    LanguageModel,
    Lora,
    ModelSettings,
    NewModel,
    ScalarModel,
    load_causal,
    load_tokenizer,
    new_model,
    new_tokenizer,
    resolve,
)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = new_tokenizer(["have you seen it"] * 9, 280)
    path = tmp_path_factory.mktemp("run") / "model"
    LanguageModel(new_model(NewModel(hidden=16, layers=1, heads=2, context=16), tokenizer)).save(path, tokenizer)
    return path


def test_the_folder_of_a_round_names_the_models_in_it(folder, tmp_path):
    for name in ("sft", "ppo", "ppo.before-1"):
        (tmp_path / "round-1" / name / "model").mkdir(parents=True)
        (tmp_path / "round-1" / name / "model/config.json").write_text("{}")
    (tmp_path / "round-1/reward/model").mkdir(parents=True)
    (tmp_path / "round-1/reward/model/config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    with pytest.raises(ModelError, match="no model is in this folder") as raised:
        load_tokenizer(ModelSettings(path=str(tmp_path)))
    assert raised.value.remedy == f"this is a round; its models are {tmp_path}/round-1/ppo, {tmp_path}/round-1/sft"


@pytest.fixture
def copy(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def refused(path, word, load=load_causal, **settings):
    with pytest.raises(ModelError) as error:
        load(ModelSettings(path=str(path), **settings))
    assert word in str(error.value) and error.value.exit_code == 2 and str(path) in str(error.value)


def test_a_run_folder_stands_for_its_model(folder):
    assert resolve(str(folder.parent)) == str(folder) == resolve(str(folder))
    assert resolve("someone/some-model") == "someone/some-model"
    load_causal(ModelSettings(path=str(folder.parent)))


def test_missing_folder(tmp_path):
    for load in (load_causal, load_tokenizer, ScalarModel.load):
        refused(tmp_path / "nothing", "no such folder", load)
        refused(tmp_path, "no config.json", load)


@pytest.mark.parametrize("path", ["runs/stf", "./runs/stf", "models/tiny", "a/b/c"])
def test_a_path_that_looks_local_is_refused_with_what_is_near_and_no_hub_is_asked(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/sft", "models/tinny"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *given, **more: pytest.fail("the hub was asked"))
    with pytest.raises(ModelError, match="no such folder") as raised:
        load_causal(ModelSettings(path=path))
    near = {"runs/stf": "runs/sft", "./runs/stf": "runs/sft", "models/tiny": "models/tinny", "a/b/c": "models, runs"}[path]
    assert raised.value.remedy == f"there is {near}"


def test_truncated_weights(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(copy, "damaged or cut off")


def test_empty_weights(copy):
    (copy / "model.safetensors").write_bytes(b"")
    refused(copy, "damaged or cut off")


def test_pickles(copy):
    (copy / "model.safetensors").unlink()
    refused(copy, "missing")
    (copy / "pytorch_model.bin").write_bytes(b"\x80")
    refused(copy, "pickles (pytorch_model.bin)")


def test_nan_weights(folder, tmp_path):
    hf = load_causal(ModelSettings(path=str(folder)))
    with torch.no_grad():
        hf.model.norm.weight[3] = float("nan")
    hf.save_pretrained(tmp_path / "bad")
    refused(tmp_path / "bad", "NaN")


def test_missing_weights(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    refused(copy, "missing")


def test_other_sizes_than_the_config_says(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"vocab_size": 999}))
    refused(copy, "")


def test_config_that_is_no_json(copy):
    (copy / "config.json").write_text("{")
    refused(copy, "cannot be loaded")


def test_a_language_model_is_no_reward_model_and_the_other_way_round(folder, tmp_path):
    refused(folder, "LlamaForCausalLM", ScalarModel.load)
    hf = load_causal(ModelSettings(path=str(folder)))
    ScalarModel.from_causal(hf, "normal").save(tmp_path / "rm", load_tokenizer(ModelSettings(path=str(folder))))
    refused(tmp_path / "rm", "gives scores")


def test_remote_code_needs_a_revision(folder):
    refused(folder, "without a revision", trust_remote_code=True)


def test_hub_without_network(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("someone/some-model", "HF_HUB_OFFLINE")
    refused("someone/some-model", "HF_HUB_OFFLINE", load_tokenizer)


def test_lora_on_layers_that_are_not_there(folder):
    with pytest.raises(ModelError, match=r"lora\.targets"):
        load_causal(ModelSettings(path=str(folder), lora=Lora(targets=["nothing"])))


def test_too_long_and_empty_prompt(folder):
    model = LanguageModel(load_causal(ModelSettings(path=str(folder))))
    with pytest.raises(ModelError, match="17 tokens"):
        model.logp(Sequences.of([([1] * 10, [1] * 7)]))
    with pytest.raises(ModelError, match="without a prompt"):
        model.logp(Sequences.of([([], [1] * 7)]))
