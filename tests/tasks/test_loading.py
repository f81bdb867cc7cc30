"""A frozen base in each precision: held as it says, left alone by the training, and merged in full."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from models import adapters
from models.architectures import Family, fresh_model
from models.tokenizer import train_tokenizer
from tasks import loading, notes, sft, sft_worker, training
from tasks.artifacts import Checkpoint, Dataset
from tasks.errors import UsageError
from tasks.generation import pick_device
from tasks.pretrain import PretrainRecipe
from tasks.settings import Execution
from tests import tiny

# bytes of a weight: LLM.int8 has a fp32 scale for each row, nf4 one for each 64 weights
HELD = {
    "fp32": (torch.float32, 4.0),
    "bf16": (torch.bfloat16, 2.0),
    "int8": (torch.int8, 1.0),
    "int4": (torch.uint8, 0.5),
}
NARROW = [load for load in HELD if load != "fp32"]
RECIPE = {"epochs": 4, "batch": 8, "rank": 4, "max_length": 64, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    texts = [row["text"] for row in tiny.articles(tiny.TinyRecipe())]
    tokenizer = train_tokenizer(texts, vocabulary=320, context=96)
    fresh_model(1, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny._write(folder, tiny.TinyRecipe(articles=120))
    return folder


def frozen(model: Any) -> dict[str, torch.Tensor]:
    """The frozen matrices of the layers."""
    return {
        name: p for name, p in model.named_parameters() if "layers." in name and "proj" in name and "lora" not in name
    }


@pytest.mark.parametrize("load", HELD)
def test_the_base_is_held_in_the_precision_that_was_asked_for(load: Any, base: Path) -> None:
    dtype, width = HELD[load]
    exact = frozen(loading.base_model(base, "fp32", "cpu"))
    held = loading.base_model(base, load, "cpu")
    matrices = frozen(held)
    assert len(matrices) == len(exact) > 6
    assert {p.dtype for p in matrices.values()} == {dtype}
    assert sum(p.nbytes for p in matrices.values()) == width * sum(p.numel() for p in exact.values())
    rest = torch.float32 if load == "fp32" else torch.bfloat16
    assert held.get_input_embeddings().weight.dtype == held.model.norm.weight.dtype == rest


@pytest.fixture(scope="module", params=NARROW)
def tuned(
    request: pytest.FixtureRequest, base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Any]:
    """The precision, the folder of a fine-tuning, and the model as it was trained."""
    folder = tmp_path_factory.mktemp(request.param)
    seen = []
    save = loading.save_adapter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "save_adapter", lambda model, *rest: (seen.append(model), save(model, *rest)))
        sft_worker.lora(base, data, folder, sft.SFTRecipe(load=request.param, **RECIPE), Execution(device="cpu"))
    return request.param, folder, seen[0]


Tuned = tuple[Any, Path, Any]


@pytest.mark.slow
def test_the_adapter_learns_in_fp32_and_the_base_stays_as_it_was_rounded(tuned: Tuned, base: Path) -> None:
    load, folder, model = tuned
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    untouched = frozen(loading.base_model(base, load, "cpu"))
    now = {name.replace(".base_layer", "").removeprefix("base_model.model."): p for name, p in frozen(model).items()}
    assert now.keys() == untouched.keys()
    assert all(p.dtype == HELD[load][0] and torch.equal(p, untouched[name]) for name, p in now.items())
    losses = [entry["loss"] for entry in training.history(folder) if "loss" in entry]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


@pytest.mark.slow
def test_a_step_takes_what_was_forecast_of_a_narrow_base(tuned: Tuned) -> None:
    said = (tuned[1] / "log" / notes.NOTES).read_text()
    error = re.search(r"memory forecast .* \((.*)%\)", said)
    assert error and abs(float(error[1])) < 2, said


@pytest.mark.slow
def test_the_merge_is_the_adapter_on_the_base_in_full_precision(tuned: Tuned, base: Path) -> None:
    merged, exact = (load_file(folder / "model.safetensors") for folder in (tuned[1] / "model", base))
    adapter = load_file(tuned[1] / "adapter" / "adapter_model.safetensors")
    assert merged.keys() == exact.keys()
    assert {weight.dtype for weight in [*merged.values(), *adapter.values()]} == {torch.float32}
    name = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    assert b.abs().max() > 0
    assert torch.allclose(merged[f"{name}.weight"], exact[f"{name}.weight"] + b @ a, atol=1e-6)
    assert torch.equal(merged["model.norm.weight"], exact["model.norm.weight"])
    assert not torch.equal(merged["model.embed_tokens.weight"], exact["model.embed_tokens.weight"])


@pytest.mark.slow
def test_the_merged_model_says_what_the_adapter_on_the_base_says(tuned: Tuned, base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tuned[1] / "model")
    assert model.dtype == torch.float32 and "quantization_config" not in json.loads(
        (tuned[1] / "model" / "config.json").read_text()
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.arange(60).reshape(2, 30)
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, loading.adapted(base, tuned[1] / "adapter")(ids).logits, atol=1e-4)


@pytest.mark.slow
def test_the_record_of_the_export_holds_for_the_merged_model(tuned: Tuned) -> None:
    from models.exported import difference
    from tasks.generation import load

    model, tokenizer = load(tuned[1] / "model", "cpu")
    recorded = json.loads((tuned[1] / training.EXPORT).read_text(encoding="utf-8"))
    assert difference(recorded, model, tokenizer) == ""


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    loading.require("fp32")
    loading.require("bf16")
    handles = (kind(stage="s", name="n", key="k", digest="d", path=tmp_path) for kind in (Checkpoint, Dataset))
    with pytest.raises(
        UsageError, match=r"sft.load is int4, and bitsandbytes is not installed: pip install 'evergreen\[qua"
    ):
        sft.finetune.fn(*handles, sft.SFTRecipe(load="int4"), tiny.EXECUTION)


def test_the_precision_is_identity_and_the_control_has_none() -> None:
    recipes = {load: sft.SFTRecipe(load=load) for load in HELD}
    made = {load: sft.step(recipe, "base", "data") for load, recipe in recipes.items()}
    assert len({step.key for step in made.values()}) == 4
    assert [load for load, step in made.items() if "bitsandbytes" in step.identity["libraries"]] == ["int8", "int4"]
    controls = [sft.scratch_recipe(recipe, PretrainRecipe()) for recipe in recipes.values()]
    assert controls == [controls[0]] * 4


@pytest.mark.parametrize("family", ["gpt2", "bloom", "palm"])
def test_a_base_in_bf16_takes_what_a_trained_embedding_gives(family: Family, base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    fresh_model(1, tokenizer, seed=0, family=family).save_pretrained(tmp_path)
    model = loading.base_model(tmp_path, "bf16", "cpu")
    tuned = get_peft_model(model, adapters.lora(model, 4, embeddings=True))
    adapters.train_in_fp32(tuned)
    ids = torch.arange(8)[None]
    with torch.autocast("cpu", torch.bfloat16):
        loss = tuned(input_ids=ids, labels=ids).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert {p.dtype for name, p in model.named_parameters() if "base_layer.weight" in name} == {torch.bfloat16}


def test_a_gpu_that_is_not_there_is_refused_by_every_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"execution\.device is cuda, and torch sees no GPU"):
        training.arguments(tmp_path, seed=1, device="cuda", steps=1, batch=1, learning_rate=1e-3)
    with pytest.raises(UsageError, match=r"execution\.device is cuda, and torch sees no GPU"):
        pick_device("cuda")
