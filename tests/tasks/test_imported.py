"""Foreign models: what comes in is what they were, and what cannot be trained is refused before it is."""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy as copied
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from models.architectures import OBJECTIVES, Family, fresh_model, load, with_added_tokens
from models.objectives import objective_of
from models.tokenizer import train_tokenizer
from tasks import imported
from tasks.errors import StartError
from tests import gguf_file

TEXTS = ["A small river in the north of France. Évariste Galois was a French mathematician."] * 9
SENTENCE = "A small river in Évariste's north"


def save(folder: Path, *, vocabulary: int = 0, positions: int = 64, **changes: Any) -> tuple[Any, Any]:
    """A Llama of one layer with random weights, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, vocabulary=300, context=positions)
    tokenizer.chat_template = None
    config = LlamaConfig(
        vocab_size=vocabulary or len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=positions, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    folder = tmp_path_factory.mktemp("base")
    return folder, *save(folder)


@pytest.fixture
def copy(base: tuple[Path, Any, Any], tmp_path: Path) -> Path:
    """The base in a folder that a test may damage."""
    return Path(shutil.copytree(base[0], tmp_path / "copy"))


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(**tokenizer(SENTENCE, return_tensors="pt", return_token_type_ids=False)).logits


def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_a_folder_comes_in_as_it_is(base: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, model, tokenizer = base
    figures = imported.convert(folder, tmp_path / "model")
    assert torch.equal(logits(*loaded(tmp_path / "model")), logits(model, tokenizer))
    assert figures == {
        "architecture": "LlamaForCausalLM", "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": 300, "positions": 64, "pad": "<|pad|>", "tokens_added": 0, "chat_template": False,
    }  # fmt: skip


def test_a_gguf_file_comes_in_as_it_was_written(base: tuple[Path, Any, Any], tmp_path: Path) -> None:
    _, model, tokenizer = base
    gguf_file.write(model, tokenizer, tmp_path / "exact.gguf")
    imported.convert(tmp_path / "exact.gguf", tmp_path / "model")
    made, encoder = loaded(tmp_path / "model")
    assert encoder(SENTENCE)["input_ids"] == tokenizer(SENTENCE)["input_ids"]
    torch.testing.assert_close(logits(made, encoder), logits(model, tokenizer), atol=1e-5, rtol=0)
    assert (encoder.pad_token, encoder.eos_token) == ("<|pad|>", "<|endoftext|>")


def test_a_quantised_gguf_file_comes_in_dequantised_and_trainable(base: tuple[Path, Any, Any], tmp_path: Path) -> None:
    _, model, tokenizer = base
    gguf_file.write(model, tokenizer, tmp_path / "small.gguf", quantised=True)
    imported.convert(tmp_path / "small.gguf", tmp_path / "model")
    made, encoder = loaded(tmp_path / "model")
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    difference = (logits(made, encoder) - logits(model, tokenizer)).abs().max()
    assert 0 < difference < 0.05


def test_padding_takes_a_token_that_the_vocabulary_keeps_for_it(tmp_path: Path) -> None:
    save(tmp_path / "base", pad_token="<|endoftext|>")
    figures = imported.convert(tmp_path / "base", tmp_path / "model")
    model, tokenizer = loaded(tmp_path / "model")
    assert (tokenizer.pad_token, figures["tokens_added"]) == ("<|pad|>", 0)
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_padding_gets_a_token_of_its_own_where_there_is_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "base").mkdir()
    tokenizer = train_tokenizer(TEXTS, vocabulary=300, context=64)
    text = tokenizer.backend_tokenizer.to_str().replace("<|pad|>", "<|none|>")
    (tmp_path / "base" / "tokenizer.json").write_text(text)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(config))
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2, n_positions=48))
    model.save_pretrained(tmp_path / "base")
    figures = imported.convert(tmp_path / "base", tmp_path / "model")
    made, encoder = loaded(tmp_path / "model")
    assert (figures["tokens_added"], encoder.pad_token, encoder.pad_token_id) == (1, "<|pad|>", 300)
    assert made.get_input_embeddings().weight.shape[0] == 301
    torch.testing.assert_close(made.transformer.wte.weight[:300], model.transformer.wte.weight)
    assert encoder.model_max_length == figures["positions"] == 48


def test_rows_beyond_the_vocabulary_are_kept(tmp_path: Path) -> None:
    save(tmp_path / "base", vocabulary=320)
    imported.convert(tmp_path / "base", tmp_path / "model")
    assert loaded(tmp_path / "model")[0].get_input_embeddings().weight.shape[0] == 320


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def cut(file: Path, size: int) -> None:
    with file.open("r+b") as opened:
        opened.truncate(size)


def drop_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def drop_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def name_no_end(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "eos_token"}))


def name_shards(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
    "a cut header": (lambda folder: cut(folder / "model.safetensors", 100), r"is torn \(its header is cut\)"),
    "cut weights": (lambda folder: cut(folder / "model.safetensors", 100_000), r"is torn \(100,000 bytes of"),
    "a lost tensor": (drop_tensor, r"lacks 1 of the model's weights \(model.layers.1.mlp.up_proj.weight\)"),
    "a lost shard": (name_shards, "lacks model-00001-of-00002.safetensors"),
    "no tokenizer": (drop_tokenizer, "holds no tokenizer"),
    "no end": (name_no_end, "names no end token"),
    "another's tokenizer": (lambda folder: train_tokenizer(TEXTS, vocabulary=310, context=64).save_pretrained(folder),
                            "are not of one model"),
    "code of its own": (lambda folder: edit(folder, model_type="mine", auto_map={"AutoConfig": "c.C"}),
                        "code of its own, which is never run"),
    "an unknown family": (lambda folder: edit(folder, model_type="mine"), "a family unknown to transformers"),
    "quantised": (lambda folder: edit(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
                  r"is quantised \(gptq\)"),
    "a classifier": (lambda folder: edit(folder, architectures=["LlamaForSequenceClassification"]),
                     "is a LlamaForSequenceClassification, which was not trained to"),
    "an embedding": (lambda folder: edit(folder, architectures=["LlamaModel"]), "is a LlamaModel, which was not"),
    "a config that is no object": (lambda folder: (folder / "config.json").write_text("[]"), "holds a list"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_trained_is_refused(damage: str, copy: Path, tmp_path: Path) -> None:
    inflict, message = DAMAGES[damage]
    inflict(copy)
    with pytest.raises(StartError, match=message):
        imported.convert(copy, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"hello, world")
    with pytest.raises(StartError, match="does not begin as a GGUF file does"):
        imported.convert(tmp_path / "a.gguf", tmp_path / "model")


def test_a_torn_gguf_file_is_refused(base: tuple[Path, Any, Any], tmp_path: Path) -> None:
    gguf_file.write(*base[1:], tmp_path / "a.gguf")
    cut(tmp_path / "a.gguf", (tmp_path / "a.gguf").stat().st_size // 2)
    with pytest.raises(StartError, match="holds no model that transformers reads from GGUF"):
        imported.convert(tmp_path / "a.gguf", tmp_path / "model")


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils

    monkeypatch.setattr(transformers.utils, "is_gguf_available", lambda: False)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(StartError, match=r"pip install 'evergreen\[gguf\]'"):
        imported.convert(tmp_path / "a.gguf", tmp_path / "model")


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_model_of_masks_or_spans_comes_in_with_what_it_needs(family: Family, tmp_path: Path) -> None:
    plain = train_tokenizer(TEXTS, vocabulary=300, context=64)
    tokenizer = with_added_tokens(copied(plain), family, 64)
    fresh_model(1, tokenizer, seed=0, family=family).save_pretrained(tmp_path / "own")
    plain.save_pretrained(tmp_path / "own")
    with pytest.raises(StartError, match=r"mask token|extra_id_0"):
        imported.convert(tmp_path / "own", tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "own")
    imported.convert(tmp_path / "own", tmp_path / "model")
    made = objective_of(load(tmp_path / "model"), AutoTokenizer.from_pretrained(tmp_path / "model"), seed=0)
    assert made.name == OBJECTIVES[family]
