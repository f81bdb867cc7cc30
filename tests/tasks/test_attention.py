"""A model in a folder, its maps drawn: what is written, and what is refused with which words."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors
from tokenizers import models as kinds
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
)

from models.architectures import Recurrent, build, fresh_model
from models.tokenizer import train_tokenizer
from tasks import attention, attention_plots
from tasks.attention import Request, answer
from tasks.errors import UsageError
from tests.contest import submit

TEXT = "a river in France"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the layout of a step of the store."""
    folder = tmp_path_factory.mktemp("step") / "0a1b2c"
    tokenizer = train_tokenizer([TEXT] * 4, vocabulary=270, context=64)
    fresh_model(2, tokenizer, seed=0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture
def asked(llama: Path, tmp_path: Path) -> Request:
    return Request(str(llama), TEXT, tmp_path / "out")


def test_a_step_of_the_store_is_measured_and_drawn(asked: Request) -> None:
    found = answer(asked)
    length = len(found["tokens"])
    assert found["folder"] == f"{asked.model}/model"
    assert (found["architecture"], found["causal"], found["layers"], found["heads"]) == ("LlamaModel", True, 3, 2)
    assert "".join(token["text"] for token in found["tokens"]) == TEXT.replace(" ", "␣")
    assert [(each["layer"], each["head"]) for each in found["figures"]] == [(i, j) for i in range(3) for j in range(2)]
    for each in found["figures"]:
        assert 0 < each["entropy"] <= found["uniform_entropy"]
        assert 0 < each["distance"] < length
        assert all(0 <= each[name] <= 1 for name in ("first", "previous", "itself", "induction"))
    names = ["overview.png", "layer-0.png", "layer-1.png", "layer-2.png"]
    assert found["pictures"] == [str(asked.out / name) for name in names]
    assert {path.name for path in asked.out.iterdir()} == set(names)
    overview, *layers = (_size(Path(path)) for path in found["pictures"])
    assert overview == (855, 1050)  # maps of 1.9 inches, at 150 dots an inch
    assert all(width > 2 * 150 * attention_plots.TOKEN * length for width, _ in layers)
    assert len(set(layers)) == 1


def test_a_later_call_replaces_its_own_files_alone(asked: Request) -> None:
    asked = replace(asked, layers=(0,))
    answer(asked)
    (asked.out / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in asked.out.iterdir()}
    answer(replace(asked, layers=(1, 1)))
    later = {path.name: path.read_bytes() for path in asked.out.iterdir()}
    assert later.keys() == {*before, "layer-1.png"}
    assert {name for name in before if later[name] != before[name]} == {"overview.png"}
    answer(asked)
    assert {path.name: path.read_bytes() for path in asked.out.iterdir()} == {**later, **before}


def test_the_chat_template_frames_the_text(asked: Request) -> None:
    tokens = [token["text"] for token in answer(replace(asked, chat=True, layers=(0,)))["tokens"]]
    assert (tokens[0], tokens[-1]) == ("<|user|>", "<|assistant|>")


def test_a_control_token_in_the_text_of_a_chat_is_shown_as_its_letters(asked: Request) -> None:
    found = answer(replace(asked, text="a<|assistant|>b", chat=True, layers=(0,)))
    tokens = [token["text"] for token in found["tokens"]]
    assert "".join(tokens) == "<|user|>a<|assistant|>b<|assistant|>"
    assert tokens.count("<|assistant|>") == 1


def test_gpt2_and_bert_are_shown_too(tmp_path: Path) -> None:
    words = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "river", "##s", "run"))}
    pieces = Tokenizer(kinds.WordPiece(words, unk_token="[UNK]"))
    pieces.pre_tokenizer = Whitespace()
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, cls_token="[CLS]", sep_token="[SEP]")
    config = BertConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    found = answer(Request(str(_saved(BertForMaskedLM(config), tokenizer, tmp_path / "bert")), "rivers run", tmp_path))
    assert [token["text"] for token in found["tokens"]] == ["[CLS]", "river", "##s", "run", "[SEP]"]
    assert (found["causal"], found["figures"][0]["induction"]) == (False, None)

    tokenizer = train_tokenizer([TEXT] * 4, vocabulary=270, context=64)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=270, n_embd=16, n_layer=1, n_head=1, n_positions=16))
    asked = Request(str(_saved(model, tokenizer, tmp_path / "gpt2")), TEXT, tmp_path)
    found = answer(asked)
    assert (found["architecture"], found["causal"], found["heads"]) == ("GPT2Model", True, 1)
    assert _refusal(replace(asked, text=TEXT * 3)) == (
        f"the text has {3 * len(found['tokens'])} tokens and the model reads 16 at most: give a shorter one"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": " \n"}, "the text is empty"),
        ({"text": "a"}, "the text is a single token"),
        ({"text": "a " * 40}, "the text has 80 tokens and the model reads 64 at most"),
        ({"layers": (0, 3, 9)}, "--layers names 3, 9, and the model has layers 0 to 2"),
        ({"model": "nobody@x"}, "no model answers to 'nobody@x'; .*there is no folder nobody@x either"),
        ({"model": "."}, r"the folder \. holds no config.json, and no model answers"),
    ],
)
def test_what_cannot_be_shown_is_refused_and_nothing_written(
    changes: dict, said: str, asked: Request, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        answer(replace(asked, **changes))
    assert not asked.out.exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(asked: Request) -> None:
    asked.out.write_text("a file")
    assert _refusal(asked) == f"--out {asked.out} is no folder that can be written (File exists): name another"
    assert _refusal(replace(asked, out=asked.out / "below")).startswith(f"--out {asked.out}/below is no folder")


def _lstm(folder: Path) -> None:
    lstm = Recurrent(hidden=32, layers=1)
    build(lstm, vocabulary=64, context=32, special={"bos": 0, "eos": 0, "pad": 1}, seed=0).save_pretrained(folder)


def _without_weights(folder: Path) -> None:
    config = LlamaForCausalLM.from_pretrained(folder).config
    config.num_hidden_layers += 1
    config.save_pretrained(folder)


def _torn(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def _without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def _without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def _with_more_tokens(folder: Path) -> None:
    train_tokenizer([TEXT] * 4, vocabulary=272, context=64).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_lstm, "holds an LSTM, which has no attention: give a decoder or an encoder"),
        (lambda folder: T5Config().save_pretrained(folder), "holds a t5, an encoder with a decoder"),
        (_without_weights, r"lacks weights of the model \(layers.3.*random"),
        (_torn, "holds no model that transformers reads: .*deserializing"),
        (_without_tokenizer, "holds no tokenizer that transformers reads"),
        (_without_template, "has no chat template: leave --chat out"),
        (_with_more_tokens, "the tokenizer gives token 27., and the model knows 270: they are no pair"),
    ],
)
def test_a_folder_that_is_no_such_model_is_refused(
    damage: Callable[[Path], None], said: str, asked: Request, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    answering = Path(asked.model) / "model"
    folder.mkdir()
    for path in answering.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    damage(folder)
    with pytest.raises(UsageError, match=said):
        answer(replace(asked, model=str(folder), chat=True))


def test_maps_that_would_fill_the_memory_are_refused_with_what_would_fit(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MOST_BYTES", 4 * 6 * 5**2)
    assert "give a text of 5 tokens or fewer" in _refusal(asked)


def test_labels_are_what_the_font_can_draw() -> None:
    labels = {"␣river": "␣river", "日": "\\u65e5", "a" * 30: "a" * 13 + "…"}
    assert {token: attention_plots._label(token) for token in labels} == labels


def test_beyond_forty_tokens_the_labels_are_thinned_and_the_map_stays_as_large(tmp_path: Path) -> None:
    figures = [dict.fromkeys(("entropy", "distance", "first", "previous", "itself"), 0.5)]
    for length in (20, 40, 90):
        alike = np.tril(np.ones((1, length, length), np.float32)) / np.arange(1, length + 1)[:, None]
        tokens = [f"${number:03d}$" for number in range(length)]  # no formulas, whatever matplotlib takes them for
        attention_plots.layer(alike, tokens, figures, tmp_path / f"{length}.png", title="$x$")
    small, large, thinned = (_size(tmp_path / f"{length}.png") for length in (20, 40, 90))
    assert small < large == thinned


def test_a_small_map_of_a_long_text_keeps_its_lines() -> None:
    sink = np.zeros((1, 1000, 1000), np.float32)
    sink[..., 0] = 1
    small = attention_plots._reduced(sink)
    assert small.shape == (1, 143, 143)
    assert small[..., 0].min() == 1 and small[..., 1:].max() == 0
    np.testing.assert_array_equal(attention_plots._reduced(sink[:, :150, :150]), sink[:, :150, :150])


@pytest.mark.slow
@pytest.mark.usefixtures("registry_places")
def test_a_registered_model_answers_to_its_name(model, report, tmp_path: Path) -> None:
    submit(model(5), report(1.0), "looked")
    for name in ("looked", "looked@champion", "looked/1"):
        assert answer(Request(name, TEXT, tmp_path / "out", layers=(0,)))["model"] == name
    said = _refusal(Request("looked/2", TEXT, tmp_path))
    assert said.startswith("no model answers to 'looked/2'; there are: ") and "looked/1 (looked@champion)" in said


def _saved(model, tokenizer, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _size(picture: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    return width, height


def _refusal(asked: Request) -> str:
    with pytest.raises(UsageError) as refused:
        answer(asked)
    return str(refused.value)
