"""Answers and losses of a causal language model in batches."""

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from models.tokenizer import Messages, answered, chat_ids, encoded, rendered

LEARNT_POSITIONS = ("gpt2", "gpt_bigcode", "gpt_neo", "opt")
WINDOW = 1024  # tokens of a text that are read at once, where the context is longer


@torch.inference_mode()
def answer(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Messages],
    *,
    max_new_tokens: int,
    samples: int = 1,
    temperature: float = 0.0,
    batch: int = 128,
    seed: int = 0,
) -> list[list[str]]:
    """`samples` answers to each conversation; greedy at temperature 0. Shorter prompts are decoded together.

    Returns a list of `samples` texts per conversation, in the order given. Raises ValueError for samples < 1, and where
    the model's positions leave no room for a prompt.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; at least one answer must be asked for")
    room = positions(model) - max_new_tokens
    if room < 1:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens} and the model has {positions(model)} positions, which leaves none for "
            "the prompt: lower it"
        )
    torch.manual_seed(seed)
    model.eval()
    prompts = rendered(tokenizer, conversations, add_generation_prompt=True)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].text), i))
    answers: list[list[str]] = [[] for _ in prompts]
    rows = max(1, batch // samples)
    options = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    for start in range(0, len(order), rows):
        chunk = order[start : start + rows]
        ids = encoded(tokenizer, [prompts[i] for i in chunk])
        inputs = _padded(model, tokenizer, [shortened(row, len(row), room) for row in ids], side="left")
        output = model.generate(
            **inputs, max_new_tokens=max_new_tokens, num_return_sequences=samples,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, **options,
        )  # fmt: skip
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for position, i in enumerate(chunk):
            answers[i] = [text.strip() for text in texts[position * samples : (position + 1) * samples]]
    return answers


@torch.inference_mode()
def answer_losses(
    model: Any, tokenizer: Any, conversations: Sequence[Messages], answers: Sequence[str], *, batch: int = 64
) -> list[tuple[float, int]]:
    """Summed negative log-likelihood in nats and number of tokens of each given answer, its stop token included."""
    model.eval()
    losses = []
    for start in range(0, len(conversations), batch):
        here = slice(start, start + batch)
        heads, wholes = zip(*answered(tokenizer, conversations[here], answers[here]), strict=True)
        prompt_lengths, ids = [len(head) for head in encoded(tokenizer, heads)], encoded(tokenizer, wholes)
        rows = [shortened(row, length, positions(model)) for row, length in zip(ids, prompt_lengths, strict=True)]
        prompt_lengths = [
            length - len(whole) + len(row) for length, whole, row in zip(prompt_lengths, ids, rows, strict=True)
        ]
        inputs = _padded(model, tokenizer, rows, side="right")
        ids_BT, mask_BT = inputs["input_ids"], inputs["attention_mask"]
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, :-1].float()
        nll_BT = torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
        for row, length in enumerate(prompt_lengths):
            keep = mask_BT[row, 1:].bool() & (torch.arange(1, ids_BT.shape[1], device=ids_BT.device) >= length)
            losses.append((float(nll_BT[row][keep].sum()), int(keep.sum())))
    return losses


@torch.inference_mode()
def rewards(model: Any, tokenizer: Any, conversations: Sequence[Messages], *, batch: int = 128) -> list[float]:
    """The scalar reward of each whole conversation from a sequence classifier with one output."""
    model.eval()
    scores: list[float] = []
    for start in range(0, len(conversations), batch):
        ids = chat_ids(tokenizer, conversations[start : start + batch])
        rows = [shortened(row, len(row), positions(model)) for row in ids]
        scores += model(**_padded(model, tokenizer, rows, side="right")).logits[:, 0].float().tolist()
    return scores


def positions(model: Any) -> int:
    """The tokens that a model can read at most: the rows of a table of learnt positions. Others have no such end."""
    return model.config.max_position_embeddings if model.config.model_type in LEARNT_POSITIONS else sys.maxsize


def shortened(ids: Sequence[int], length: int, most: int) -> list[int]:
    """Ids of at most `most` tokens, without the middle of the first `length` where there are more.

    What a prompt asks for stands at its ends (LongBench, Bai et al. 2023, arXiv 2308.14508, cuts in this way).
    """
    surplus = max(0, len(ids) - most)
    kept = max(0, length - surplus) // 2
    return [*ids[:kept], *ids[kept + surplus :]]


def _padded(model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], *, side: str) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, both (rows, longest)."""
    longest = max(map(len, rows))
    ids_BT = torch.full((len(rows), longest), tokenizer.pad_token_id)
    mask_BT = torch.zeros_like(ids_BT)
    for i, row in enumerate(rows):
        here = slice(longest - len(row), longest) if side == "left" else slice(len(row))
        ids_BT[i, here], mask_BT[i, here] = torch.tensor(row), 1
    return {"input_ids": ids_BT.to(model.device), "attention_mask": mask_BT.to(model.device)}


@torch.inference_mode()
def window_losses(model: Any, ids_NT: np.ndarray, *, batch: int = 32) -> list[float]:
    """Mean loss of each window in nats per token; the first token of a window is given and not predicted."""
    model.eval()
    losses: list[float] = []
    for start in range(0, len(ids_NT), batch):
        ids_BT = torch.from_numpy(ids_NT[start : start + batch].astype(np.int64)).to(model.device)
        logits_BTV = model(input_ids=ids_BT).logits[:, :-1].float()
        nll_BT = torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
        losses += nll_BT.mean(dim=1).tolist()
    return losses


@torch.inference_mode()
def bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[str], *, batch: int = 32) -> list[float]:
    """Bits for each UTF-8 byte of each text: nats / ln 2 / bytes, which compares across tokenizers.

    A text follows the token that begins a document. One longer than the context is read in windows that overlap by
    half; every token counts once, so that all models are scored on all bytes. Raises ValueError for an empty text.
    """
    if not all(texts):
        raise ValueError(f"text {[bool(text) for text in texts].index(False)} is empty; it has no bytes to predict")
    model.eval()
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    # as the streams of pre-training are encoded: a text that holds the letters of a control token is text
    options = {"add_special_tokens": False, "split_special_tokens": True}
    ids = [[begin, *tokenizer(text, **options)["input_ids"]] for text in texts]
    width = min(tokenizer.model_max_length, WINDOW)
    windows = [(text, *window) for text, row in enumerate(ids) for window in _windows(len(row), width)]
    windows.sort(key=lambda window: window[2] - window[1])
    nats = [0.0] * len(texts)
    for start in range(0, len(windows), batch):
        chunk = windows[start : start + batch]
        losses = _token_losses(model, [ids[text][first:last] for text, first, last, _ in chunk], begin)
        for (text, first, last, fresh), loss in zip(chunk, losses, strict=True):
            nats[text] += float(loss[fresh - first - 1 : last - first - 1].sum())
    return [total / math.log(2) / len(text.encode()) for total, text in zip(nats, texts, strict=True)]


def _windows(length: int, width: int) -> Iterator[tuple[int, int, int]]:
    """First and last place of each window, and the first place in it that none before has predicted."""
    first, last, fresh = 0, min(width, length), 1
    yield first, last, fresh
    while last < length:
        first, fresh = last - width // 2, last
        last = min(first + width, length)
        yield first, last, fresh


def _token_losses(model: Any, rows: Sequence[Sequence[int]], padding: int) -> torch.Tensor:
    """Nats of each token but the first of each row, shape (rows, longest - 1); what lies after a row's end is noise."""
    longest = max(map(len, rows))
    ids_BT = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], device=model.device)
    mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none")
