"""Answers and losses of a causal language model in batches."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

Messages = Sequence[dict[str, str]]
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

    Returns a list of `samples` texts per conversation, in the order given. Raises ValueError for samples < 1.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; at least one answer must be asked for")
    torch.manual_seed(seed)
    model.eval()
    prompts = [tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in conversations]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    answers: list[list[str]] = [[] for _ in prompts]
    rows = max(1, batch // samples)
    options = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    for start in range(0, len(order), rows):
        chunk = order[start : start + rows]
        inputs = tokenizer(
            [prompts[i] for i in chunk],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        inputs = {k: v.to(model.device) for k, v in inputs.items() if k != "token_type_ids"}
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
        chats = conversations[start : start + batch]
        heads = [tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats]
        prompt_lengths = [len(ids) for ids in tokenizer(heads, add_special_tokens=False)["input_ids"]]
        fulls = [
            head + text + tokenizer.eos_token for head, text in zip(heads, answers[start : start + batch], strict=True)
        ]
        inputs = tokenizer(fulls, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
        ids_BT, mask_BT = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
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
        texts = [tokenizer.apply_chat_template(c, tokenize=False) for c in conversations[start : start + batch]]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
        inputs = {k: v.to(model.device) for k, v in inputs.items() if k != "token_type_ids"}
        scores += model(**inputs).logits[:, 0].float().tolist()
    return scores


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
