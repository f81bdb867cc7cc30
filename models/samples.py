"""What a model says while it learns: documents that it continues, gaps that it fills. No training notices."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise, zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch

from models.architectures import Objective

PROMPTS, OPENING, NEW = 3, 8, 32  # documents, tokens of each that are given, most tokens that follow
TEMPERATURE = 0.8
LOOKED_AT = 65_536  # tokens of a stream in which documents are looked for
GAP = "[_]"


class Sample(NamedTuple):
    """What was given, how the model answered, and what came of it; `[guess|truth]` where a gap was filled."""

    prompt: str
    kind: str
    text: str


def openings(
    streams: Mapping[str, np.ndarray], end: int, *, count: int = PROMPTS, length: int = OPENING
) -> list[dict[str, Any]]:
    """The first `length` tokens of the first `count` documents, of each stream in turn, as examples of causal models.

    Every document ends with the token `end`; one that is no longer than `length` is passed over.
    """
    found = zip_longest(*(_openings(np.asarray(stream[:LOOKED_AT]), end, length) for stream in streams.values()))
    return [{"input_ids": ids} for ids in chain.from_iterable(found) if ids is not None][:count]


def samples(
    model: Any, tokenizer: Any, objective: Objective, examples: Sequence[Mapping[str, Any]], *, longest: int,
    seed: int = 0, gaps: Sequence[int] = (),
) -> list[Sample]:  # fmt: skip
    """The model's answers to examples, which depend on its weights and the seed alone.

    causal: `input_ids` of one length, continued to at most `longest` tokens, greedily and at TEMPERATURE. masked:
    `input_ids` with `labels` of the same length, -100 where nothing is asked. span: `labels` in which each of the
    sentinel tokens `gaps` is followed by what it stands for. Raises ValueError where examples differ in length.
    """
    with undisturbed(model):
        if objective == "causal":
            return _continued(model, tokenizer, [list(each["input_ids"]) for each in examples], longest, seed)
        one = _masked if objective == "masked" else _spans
        return [one(model, tokenizer, _ids(each["input_ids"]), _ids(each["labels"]), gaps) for each in examples]


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """The model evaluates inside; then its modes and the random state of torch, numpy and Python are as before."""
    modes = [(module, module.training) for module in model.modules()]
    python, numpy_state = random.getstate(), np.random.get_state()
    device = next(model.parameters()).device
    fork = torch.random.fork_rng([device] if device.type == "cuda" else [])
    # without gradients, but not in inference mode: what a model caches in it could not be trained through; and not
    # compiled, which every further length would be anew
    with fork, torch.no_grad(), torch.compiler.set_stance("force_eager"):
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training
            random.setstate(python)
            np.random.set_state(numpy_state)


def _openings(stream: np.ndarray, end: int, length: int) -> list[list[int]]:
    ends = [-1, *np.flatnonzero(stream == end).tolist()]
    return [stream[a + 1 : a + 1 + length].tolist() for a, b in pairwise(ends) if b - a - 1 > length]


def _continued(model: Any, tokenizer: Any, prompts: list[list[int]], longest: int, seed: int) -> list[Sample]:
    """A plain loop of forwards: no model needs a cache for it, and an LSTM has no `generate`."""
    if len({len(prompt) for prompt in prompts}) > 1:
        raise ValueError(f"prompts have {[len(prompt) for prompt in prompts]} tokens; give all the same number")
    if not prompts:
        return []
    count, length = len(prompts), len(prompts[0])
    draw = torch.Generator().manual_seed(seed)
    ids_BT = torch.tensor(prompts + prompts)  # the first half greedy, the second drawn
    for _ in range(min(NEW, longest - length)):
        logits_BV = model(input_ids=ids_BT.to(model.device)).logits[:, -1].float().cpu()
        greedy = logits_BV[:count].argmax(dim=-1)
        drawn = torch.multinomial((logits_BV[count:] / TEMPERATURE).softmax(dim=-1), 1, generator=draw)[:, 0]
        ids_BT = torch.cat([ids_BT, torch.cat([greedy, drawn])[:, None]], dim=1)
    texts = [_text(tokenizer, _until(row[length:], tokenizer.eos_token_id)) for row in ids_BT.tolist()]
    kinds = ["greedy"] * count + [f"temperature {TEMPERATURE}"] * count
    return [
        Sample(_text(tokenizer, prompt), kind, text)
        for prompt, kind, text in zip(prompts + prompts, kinds, texts, strict=True)
    ]


def _masked(model: Any, tokenizer: Any, ids: list[int], labels: list[int], gaps: Sequence[int]) -> Sample:
    """Neighbours that are asked about are one gap."""
    guesses = model(input_ids=torch.tensor([ids]).to(model.device)).logits[0].argmax(dim=-1).tolist()
    prompt, text = "", ""
    for first, last in _runs([label != -100 for label in labels]):
        if labels[first] == -100:
            prompt, text = (each + _text(tokenizer, ids[first:last]) for each in (prompt, text))
        else:
            prompt += GAP
            text += f"[{_text(tokenizer, guesses[first:last])}|{_text(tokenizer, labels[first:last])}]"
    return Sample(prompt, "masked", text)


def _spans(model: Any, tokenizer: Any, ids: list[int], labels: list[int], gaps: Sequence[int]) -> Sample:
    """The decoder writes greedily, as many tokens as the truth has."""
    given = torch.tensor([ids]).to(model.device)
    written = [model.config.decoder_start_token_id]
    for _ in labels:
        so_far = torch.tensor([written]).to(model.device)
        written.append(int(model(input_ids=given, decoder_input_ids=so_far).logits[0, -1].argmax()))
    guesses, truth = (_by_gap(each, gaps, tokenizer.eos_token_id) for each in (written[1:], labels))
    prompt, text = "", ""
    for first, last in _runs([token in gaps for token in ids], alone=True):
        if ids[first] in gaps:
            prompt += GAP
            text += f"[{_text(tokenizer, guesses.get(ids[first], []))}|{_text(tokenizer, truth.get(ids[first], []))}]"
        else:
            prompt, text = (each + _text(tokenizer, ids[first:last]) for each in (prompt, text))
    return Sample(prompt, "span", text)


def _by_gap(ids: Sequence[int], gaps: Sequence[int], end: int) -> dict[int, list[int]]:
    """The tokens behind each sentinel; of one that comes twice, those behind the first."""
    found: dict[int, list[int]] = {}
    behind: list[int] = []
    for token in _until([token for token in ids if token != -100], end):
        if token in gaps:
            behind = []
            found.setdefault(token, behind)
        else:
            behind.append(token)
    return found


def _runs(marks: Sequence[bool], *, alone: bool = False) -> list[tuple[int, int]]:
    """First and last place of each stretch of equal marks; with `alone` a true mark is a stretch of its own."""
    edges = [i for i in range(1, len(marks)) if marks[i] != marks[i - 1] or (alone and marks[i])]
    return list(pairwise([0, *edges, len(marks)]))


def _until(ids: Sequence[int], end: int) -> list[int]:
    return list(ids[: ids.index(end)] if end in ids else ids)


def _ids(values: Any) -> list[int]:
    """Of a list or a tensor of shape (tokens,)."""
    return [int(value) for value in values]


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))
