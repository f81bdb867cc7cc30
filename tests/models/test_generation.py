import numpy as np
import pytest
import torch

from models.architectures import fresh_model
from models.generation import answer, answer_losses, window_losses
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
