import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2ForSequenceClassification

from models import judge
from models.architectures import DECODERS, Family, fresh_model
from models.generation import answer, answer_losses, bits_per_byte, rewards, shortened, window_losses
from models.tokenizer import train_tokenizer

CHATS = [[{"role": "user", "content": text}] for text in ("Rivers", "A poet of France", "Lake", "What is a castle?")]


@pytest.fixture(scope="module")
def model_and_tokenizer() -> tuple[object, object]:
    tokenizer = train_tokenizer(["a river in France, a poet, a lake, a castle"] * 4, vocabulary=270, context=64)
    return fresh_model(1, tokenizer, seed=3), tokenizer


def test_answers_in_a_batch_equal_answers_alone(model_and_tokenizer: tuple) -> None:
    model, tokenizer = model_and_tokenizer
    together = answer(model, tokenizer, CHATS, max_new_tokens=6, batch=4)
    alone = [answer(model, tokenizer, [chat], max_new_tokens=6)[0] for chat in CHATS]
    assert together == alone


def test_samples_follow_the_seed(model_and_tokenizer: tuple) -> None:
    model, tokenizer = model_and_tokenizer
    draw = lambda seed: answer(model, tokenizer, CHATS, max_new_tokens=6, samples=3, temperature=1.0, seed=seed)  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    assert [len(texts) for texts in draw(1)] == [3] * len(CHATS)


def test_no_answer_is_refused(model_and_tokenizer: tuple) -> None:
    model, tokenizer = model_and_tokenizer
    with pytest.raises(ValueError, match="samples is 0"):
        answer(model, tokenizer, CHATS, max_new_tokens=1, samples=0)


def test_the_loss_of_an_answer_is_that_of_its_own_tokens(model_and_tokenizer: tuple) -> None:
    model, tokenizer = model_and_tokenizer
    texts = ["a river", "poet", "", "a castle in France"]
    together = answer_losses(model, tokenizer, CHATS, texts, batch=4)
    for chat, text, (nll, count) in zip(CHATS, texts, together, strict=True):
        head = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(head, add_special_tokens=False)["input_ids"]
        full = torch.tensor([tokenizer(head + text + tokenizer.eos_token, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            logs = torch.log_softmax(model(input_ids=full).logits[0].float(), dim=-1)
        picked = [-logs[i - 1, full[0, i]].item() for i in range(len(prompt), full.shape[1])]
        assert count == len(picked)
        assert nll == pytest.approx(sum(picked), abs=1e-3)


def test_a_fresh_model_is_as_unsure_as_chance(model_and_tokenizer: tuple) -> None:
    model, tokenizer = model_and_tokenizer
    ids = np.random.default_rng(0).integers(0, len(tokenizer), (8, 32))
    losses = window_losses(model, ids, batch=3)
    assert len(losses) == 8
    assert np.mean(losses) == pytest.approx(np.log(len(tokenizer)), abs=0.1)


def test_bits_per_byte_count_every_token_once_whatever_the_window(model_and_tokenizer: tuple) -> None:
    model, tokenizer = model_and_tokenizer
    short, long = "a poet of Überlingen", "a river in France, a poet, a lake, " * 6
    together = bits_per_byte(model, tokenizer, [short, long, "é"], batch=2)
    assert together == pytest.approx([bits_per_byte(model, tokenizer, [text])[0] for text in (short, long, "é")])
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(short, add_special_tokens=False)["input_ids"]]])
    with torch.inference_mode():
        logs = torch.log_softmax(model(input_ids=ids).logits[0].float(), dim=-1)
    nats = -sum(logs[i - 1, ids[0, i]].item() for i in range(1, ids.shape[1]))
    assert together[0] == pytest.approx(nats / math.log(2) / len(short.encode()), abs=1e-4)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 20, 21])
def test_windows_cover_each_token_once_with_half_a_window_before_it(length: int) -> None:
    from models.generation import _windows

    predicted = [place for first, last, fresh in _windows(length, 8) for place in range(fresh, last)]
    assert predicted == list(range(1, length))
    assert all(last - first <= 8 and fresh - first in (1, 4) for first, last, fresh in _windows(length, 8))


def test_bits_per_byte_compare_across_tokenizers(model_and_tokenizer: tuple) -> None:
    """Models that know nothing give log2 of their vocabulary a token; per byte that depends on no tokenizer's cuts."""
    model, tokenizer = model_and_tokenizer
    other = train_tokenizer(["a river in France"] * 4, vocabulary=260, context=64)  # every byte a token of its own
    text = "a river in France, a poet, a lake"
    coarse = bits_per_byte(model, tokenizer, [text])[0]
    fine = bits_per_byte(fresh_model(1, other, seed=3), other, [text])[0]
    tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert coarse == pytest.approx(math.log2(270) * tokens / len(text), rel=0.1)
    assert fine == pytest.approx(math.log2(260), rel=0.1)


def test_a_text_without_bytes_is_refused(model_and_tokenizer: tuple) -> None:
    with pytest.raises(ValueError, match="text 1 is empty"):
        bits_per_byte(*model_and_tokenizer, ["a", ""])
    assert bits_per_byte(*model_and_tokenizer, []) == []


def test_what_is_too_long_loses_the_middle_of_its_prompt() -> None:
    assert shortened([1, 2, 3], 3, 8) == [1, 2, 3]
    assert shortened([1, 2, 3, 4, 5, 6], 6, 4) == [1, 2, 5, 6]
    assert shortened([1, 2, 3, 4, 50, 60], 4, 4) == [1, 4, 50, 60]  # the answer, 50 and 60, stays whole
    assert shortened([1, 20, 30, 40, 50], 1, 3) == [30, 40, 50]


def test_a_model_with_learnt_positions_answers_what_is_longer_than_they_are(model_and_tokenizer: tuple) -> None:
    _, tokenizer = model_and_tokenizer
    gpt2 = fresh_model(1, tokenizer, seed=3, family="gpt2")
    text = "a poet of France " + "by a river " * 40
    chats = [*CHATS, [{"role": "user", "content": text}]]
    together = answer(gpt2, tokenizer, chats, max_new_tokens=6, batch=8)
    assert together[:4] == answer(gpt2, tokenizer, CHATS, max_new_tokens=6)
    ids = tokenizer.apply_chat_template(chats[-1], add_generation_prompt=True, tokenize=True, return_dict=True)
    cut = torch.tensor([shortened(ids["input_ids"], len(ids["input_ids"]), 58)])
    output = gpt2.generate(cut, max_new_tokens=6, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert together[4] == [tokenizer.decode(output[0, 58:], skip_special_tokens=True).strip()]
    (short, _), (long, count) = answer_losses(gpt2, tokenizer, [CHATS[0], chats[-1]], ["a lake"] * 2)
    assert long == pytest.approx(short, rel=0.2)
    assert count == len(tokenizer("a lake", add_special_tokens=False)["input_ids"]) + 1
    judge = GPT2ForSequenceClassification(type(gpt2.config)(**gpt2.config.to_dict() | {"num_labels": 1}))
    judge.config.pad_token_id = tokenizer.pad_token_id
    assert np.isfinite(rewards(judge, tokenizer, chats)).all()


@pytest.mark.parametrize("family", DECODERS)
def test_every_decoder_can_judge_and_is_the_same_judge_when_it_is_loaded_again(
    model_and_tokenizer: tuple, family: Family, tmp_path: Path
) -> None:
    _, tokenizer = model_and_tokenizer
    decoder = fresh_model(1, tokenizer, seed=3, family=family)
    decoder.save_pretrained(tmp_path / "decoder")
    made = judge.load(tmp_path / "decoder")
    assert torch.equal(made.get_input_embeddings().weight, decoder.get_input_embeddings().weight)
    scores = rewards(made, tokenizer, CHATS)
    assert len(set(scores)) == len(CHATS)
    made.save_pretrained(tmp_path / "judge")
    assert rewards(judge.load(tmp_path / "judge"), tokenizer, CHATS) == pytest.approx(scores, abs=1e-6)


def test_a_prompt_without_room_is_refused(model_and_tokenizer: tuple) -> None:
    _, tokenizer = model_and_tokenizer
    gpt2 = fresh_model(1, tokenizer, seed=3, family="gpt2")
    with pytest.raises(ValueError, match="max_new_tokens is 64 and the model has 64 positions"):
        answer(gpt2, tokenizer, CHATS, max_new_tokens=64)
