import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from models.architectures import Family, fresh_model
from models.samples import openings, samples, undisturbed
from models.tokenizer import ASSISTANT, PAD, USER, train_tokenizer

TEXT = "a river in France, a poet of Spain, a lake, a castle"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([TEXT] * 4, vocabulary=290, context=64)


def test_documents_open_in_turn_and_short_ones_are_passed_over() -> None:
    streams = {"a": np.array([5, 6, 7, 8, 0, 9, 0, 10, 11, 12, 13, 0, 14, 15, 16, 17]), "b": np.array([20, 21, 22, 0])}
    found = openings(streams, 0, count=3, length=2)
    assert [each["input_ids"] for each in found] == [[5, 6], [20, 21], [10, 11]]
    assert openings(streams, 0, count=1, length=2) == found[:1]
    assert openings(streams, 0, count=9, length=4) == [], "a document of four tokens leaves nothing to continue"


@pytest.mark.parametrize("family", ["llama", "lstm"])
def test_a_document_is_continued_greedily_and_drawn(family: Family, tokenizer: Any) -> None:
    model = fresh_model(1, tokenizer, seed=3, family=family).train()
    prompts = [{"input_ids": tokenizer(text)["input_ids"][:4]} for text in ("a river in France", "of Spain, a lake")]
    made = samples(model, tokenizer, "causal", prompts, longest=20)
    assert [each.kind for each in made] == ["greedy"] * 2 + ["temperature 0.8"] * 2
    assert [each.prompt for each in made] == [tokenizer.decode(each["input_ids"]) for each in prompts] * 2
    ids = torch.tensor([prompts[1]["input_ids"]])
    model.eval()
    for _ in range(16):  # 20 tokens are the longest
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(dim=-1)], dim=1)
    followed = ids[0, 4:].tolist()
    end = followed.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in followed else 16
    assert made[1].text == tokenizer.decode(followed[:end], skip_special_tokens=True)
    assert made == samples(model, tokenizer, "causal", prompts, longest=20)
    assert made[:2] == samples(model, tokenizer, "causal", prompts, longest=20, seed=1)[:2]
    assert made[2:] != samples(model, tokenizer, "causal", prompts, longest=20, seed=1)[2:]


def test_prompts_of_unequal_length_are_refused(tokenizer: Any) -> None:
    model = fresh_model(1, tokenizer, seed=3)
    with pytest.raises(ValueError, match=r"\[1, 2\] tokens"):
        samples(model, tokenizer, "causal", [{"input_ids": [5]}, {"input_ids": [5, 6]}], longest=20)
    assert samples(model, tokenizer, "causal", [], longest=20) == []


def test_gaps_of_a_masked_text_show_guess_and_truth(tokenizer: Any) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **shape)).train()
    whole = tokenizer("a poet of Spain, a lake")["input_ids"]
    hidden = [2, 3, 5]
    mask = tokenizer.convert_tokens_to_ids(PAD)
    ids = torch.tensor([mask if i in hidden else token for i, token in enumerate(whole)])
    labels = torch.tensor([token if i in hidden else -100 for i, token in enumerate(whole)])
    (made,) = samples(model, tokenizer, "masked", [{"input_ids": ids, "labels": labels}], longest=64)
    guesses = model.eval()(input_ids=ids[None]).logits[0].argmax(dim=-1).tolist()
    text = lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True)  # noqa: E731
    first = f"[{text(guesses[2:4])}|{text(whole[2:4])}]"
    second = f"[{text(guesses[5:6])}|{text(whole[5:6])}]"
    assert made.text == text(whole[:2]) + first + text(whole[4:5]) + second + text(whole[6:])
    assert made.prompt == text(whole[:2]) + "[_]" + text(whole[4:5]) + "[_]" + text(whole[6:])
    assert made.kind == "masked"


def test_spans_show_guess_and_truth(tokenizer: Any) -> None:
    """Before and after the model has learned this one text by heart."""
    gaps = tokenizer.convert_tokens_to_ids([USER, ASSISTANT])
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).train()
    words = {text: tokenizer(text)["input_ids"] for text in ("a ", "river", " in ", "France", ", a poet")}
    ids = [*words["a "], gaps[0], *words[" in "], gaps[1], *words[", a poet"], tokenizer.eos_token_id]
    labels = [gaps[0], *words["river"], gaps[1], *words["France"], tokenizer.eos_token_id]
    example = {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}
    (before,) = samples(model, tokenizer, "span", [example], longest=64, gaps=gaps)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(**{name: values[None] for name, values in example.items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    (after,) = samples(model, tokenizer, "span", [example], longest=64, gaps=gaps)
    assert before.prompt == after.prompt == "a [_] in [_], a poet"
    assert before.text.endswith("|France], a poet") and before.text != after.text
    assert after.text == "a [river|river] in [France|France], a poet"


def test_nothing_is_disturbed(tokenizer: Any) -> None:
    model = fresh_model(1, tokenizer, seed=3).train()
    model.model.layers[0].eval()  # a part that its owner has frozen
    before = [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3), np.random.rand(3), random.random()
    assert [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()] == before
    assert torch.is_grad_enabled()
    assert model.training and model.lm_head.training and not model.model.layers[0].training
