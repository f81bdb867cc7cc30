"""Every family: what it predicts, that packed documents do not leak, that micro-batches add up, that it saves."""

import copy
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

from models import objectives
from models.architectures import OBJECTIVES, Family, family_of, fresh_model, load, with_added_tokens
from models.baselines import unigram_losses, unigram_target_losses
from models.objectives import Examples, Objective, example_losses, keeps_apart, objective_of, targets
from models.packing import PackedWindows, write_stream
from models.tokenizer import train_tokenizer

FAMILIES: tuple[Family, ...] = get_args(Family)
APART = ("llama", "gpt2", "palm", "bert")
CONTEXT = 32


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    return train_tokenizer(["the cat sat on the mat, and the dog on the log"] * 20, vocabulary=280, context=CONTEXT)


def parts(words: Any, family: Family, *, seed: int = 0, apart: bool = True) -> tuple[PreTrainedModel, Objective]:
    """A model with weights large enough that every token matters, and its objective."""
    tokenizer = with_added_tokens(copy.deepcopy(words), family, CONTEXT)
    model = fresh_model(1, tokenizer, seed=seed, family=family).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2 and family != "t5":
                parameter.mul_(5)
    return model, objective_of(model, tokenizer, seed=seed, apart=apart)


def document(length: int, end: int, seed: int) -> np.ndarray:
    return np.append(end, np.random.default_rng(seed).integers(5, 270, length - 1))


def logits(model: PreTrainedModel, objective: Objective, windows: list[np.ndarray]) -> torch.Tensor:
    batch = objective.batch([objective.example(ids, number) for number, ids in enumerate(windows)])
    del batch["labels"]
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_the_objective_follows_the_family(words: Any, family: Family) -> None:
    model, objective = parts(words, family)
    assert objective.name == OBJECTIVES[family] and family_of(model) == family
    assert objective.apart == (family in APART)


@pytest.mark.parametrize("family", APART)
def test_a_packed_document_is_read_as_if_it_stood_alone(words: Any, family: Family) -> None:
    model, objective = parts(words, family)
    first, second = document(20, words.eos_token_id, 1), document(12, words.eos_token_id, 2)
    other = document(20, words.eos_token_id, 3)
    clean = partial(_plain, model, objective)
    packed, alone = clean(np.concatenate([first, second]))[20:], clean(second)
    assert torch.allclose(packed, alone, atol=1e-4, rtol=1e-4)
    assert torch.equal(packed, clean(np.concatenate([other, second]))[20:])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", APART)
def test_documents_are_kept_apart_in_bf16_too(words: Any, family: Family, attention: str) -> None:
    tokenizer = with_added_tokens(copy.deepcopy(words), family, CONTEXT)
    model = fresh_model(1, tokenizer, seed=0, family=family).to(torch.bfloat16)
    model.set_attn_implementation(attention)
    objective = objective_of(model, tokenizer, seed=0)
    first, second = document(20, words.eos_token_id, 1), document(12, words.eos_token_id, 2)
    other = document(20, words.eos_token_id, 3)
    one, two = (_plain(model, objective, np.concatenate([each, second])) for each in (first, other))
    assert objective.apart and torch.equal(one[20:], two[20:]) and not torch.equal(one[:20], two[:20])


@pytest.mark.parametrize("family", [*APART, "bloom", "lstm"])
def test_joined_documents_see_each_other(words: Any, family: Family) -> None:
    model, objective = parts(words, family, apart=False)
    second = document(12, words.eos_token_id, 2)
    one, two = (
        _plain(model, objective, np.concatenate([document(20, words.eos_token_id, seed), second])) for seed in (1, 3)
    )
    assert not objective.apart and not torch.allclose(one[20:], two[20:], atol=1e-4)


def _plain(model: PreTrainedModel, objective: Objective, ids: np.ndarray) -> torch.Tensor:
    """Logits (T, V) of a window of which nothing is taken out."""
    example = {**objective.example(ids, 0), "input_ids": ids.astype(np.int64)}
    batch = objective.batch([example])
    del batch["labels"]
    with torch.no_grad():
        return model(**batch).logits[0]


def test_a_model_that_only_takes_positions_and_leaks_is_found_out(words: Any) -> None:
    model, _ = parts(words, "llama")
    assert keeps_apart(model)
    forward = model.forward

    def leaking(input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, **more: Any) -> Any:
        return forward(input_ids=input_ids, **more)  # drops the positions, as a wrapper might

    model.forward = leaking
    assert not keeps_apart(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_each_label_and_the_mean_that_of_the_windows(
    words: Any, family: Family, tmp_path: Path
) -> None:
    model, objective = parts(words, family)
    data = stream(tmp_path, objective, windows=5)
    each = example_losses(model, data, size=2)
    batch = objective.batch([data[i] for i in range(5)])
    labels = batch.pop("labels")
    with torch.no_grad():
        whole = objectives.loss(model(**batch), labels, shifted=objective.name == "causal")
        inside = model(**batch, labels=labels).loss
    assert float(whole) == pytest.approx(each.mean(), rel=1e-5) == pytest.approx(float(inside), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trainer_reports_the_mean_loss_of_the_windows(words: Any, family: Family, tmp_path: Path) -> None:
    model, objective = parts(words, family)
    data = stream(tmp_path, objective, windows=4)
    trainer = Trainer(
        model, TrainingArguments(str(tmp_path / "out"), use_cpu=True, report_to="none", prediction_loss_only=True),
        eval_dataset=data, data_collator=objective.batch,
        compute_loss_func=partial(objectives.loss, shifted=objective.name == "causal"),
    )  # fmt: skip
    assert trainer.evaluate()["eval_loss"] == pytest.approx(example_losses(model, data).mean(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulated_micro_batches_give_the_gradients_of_the_batch(words: Any, family: Family, tmp_path: Path) -> None:
    model, objective = parts(words, family)
    data = stream(tmp_path, objective, windows=8)
    shifted = objective.name == "causal"
    examples = [data[i] for i in range(8)]
    count = sum(int((each["labels"] != -100).sum()) for each in examples)
    gradients = []
    for size in (8, 1):
        model.zero_grad()
        for first in range(0, 8, size):
            batch = objective.batch(examples[first : first + size])
            targets_ = batch.pop("labels")
            objectives.loss(model(**batch), targets_, count, shifted=shifted).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    whole, added = gradients
    assert whole.norm() > 0 and (whole - added).norm() < 1e-3 * whole.norm()


def stream(folder: Path, objective: Objective, *, windows: int) -> Examples:
    ids = np.concatenate([document(12, 0, seed) for seed in range(windows * CONTEXT // 12 + 1)])
    write_stream(folder / "text.bin", ids)
    return Examples(PackedWindows(folder, {"text": 1}, context=CONTEXT, tokens=windows * CONTEXT), objective)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_an_example_is_the_same_whenever_it_is_made_and_another_in_another_epoch(words: Any, family: Family) -> None:
    _, objective = parts(words, family)
    ids = document(CONTEXT, words.eos_token_id, 1)
    one, again, later = (objective.example(ids, number) for number in (3, 3, 4))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["labels"], later["labels"])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_same_model_after_a_save(words: Any, family: Family, tmp_path: Path) -> None:
    model, objective = parts(words, family)
    model.save_pretrained(tmp_path)
    again = load(tmp_path, attn_implementation="eager").eval()
    window = [document(CONTEXT, words.eos_token_id, 1)]
    assert type(again) is type(model) and torch.equal(
        logits(model, objective, window), logits(again, objective, window)
    )


def test_a_span_model_writes_what_was_taken_out_behind_its_start(words: Any) -> None:
    model, objective = parts(words, "t5")
    example = objective.example(document(CONTEXT, words.eos_token_id, 1), 0)
    assert example["decoder_input_ids"].tolist() == [words.pad_token_id, *example["labels"][:-1]]
    assert model.config.decoder_start_token_id == words.pad_token_id


def test_a_tokenizer_without_mask_or_sentinels_is_refused(words: Any) -> None:
    for family, missing in (("bert", "no mask token"), ("t5", "no <extra_id_0>")):
        model, _ = parts(words, family)
        with pytest.raises(ValueError, match=missing):
            objective_of(model, words, seed=0)


def test_target_losses_are_those_of_the_unigram(words: Any, tmp_path: Path) -> None:
    ids = np.stack([document(CONTEXT, 0, seed) for seed in range(4)])
    labels = ids.copy()
    labels[:, 0] = -100
    assert unigram_target_losses(ids, labels, 280) == pytest.approx(unigram_losses(ids, ids, 280))
    labels[0] = -100
    assert unigram_target_losses(ids, labels, 280)[0] == 0
    _, objective = parts(words, "t5")
    assert targets(stream(tmp_path, objective, windows=3)).shape[0] == 3
