"""What a model learns to predict in a window of tokens: the next one, the masked ones, or the spans taken out.

An objective makes an example of a window, a batch of examples, and the loss of a batch. What it draws depends on its
seed and the number of the example alone, so a training that was stopped and goes on sees the same examples.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from models.architectures import Objective as Name
from models.corruption import IGNORED, masked, spans
from models.packing import PackedWindows
from models.tokenizer import begins_with

LOGITS = 2**27  # of a batch without gradients: 512 MB in fp32
Example = Mapping[str, np.ndarray]


class Objective(Protocol):
    @property
    def name(self) -> Name: ...

    @property
    def apart(self) -> bool:
        """Whether no token sees one of another document."""

    def example(self, ids_T: np.ndarray, number: int) -> Example: ...

    def batch(self, examples: Sequence[Example]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Causal:
    """Each token is predicted from those before it, with `apart` from those of its own document alone.

    `begin` is the token that begins a document: where a tokenizer has none of its own, the end of the one before.
    """

    begin: int
    apart: bool
    name: Name = "causal"

    def example(self, ids_T: np.ndarray, number: int) -> Example:
        """`input_ids`, `labels` and, with documents apart, `position_ids` from 0 in each; all of shape (T,).

        Nothing predicts the first token, so its label is -100: the Trainer counts labels, and knows only of some models
        that they leave the first one out.
        """
        ids = ids_T.astype(np.int64)
        labels = np.append(IGNORED, ids[1:])
        return {"input_ids": ids, "labels": labels, **_positions(ids, self.begin, self.apart)}

    def batch(self, examples: Sequence[Example]) -> dict[str, Any]:
        """With documents apart no cache: beside one, transformers does not look for documents in the positions."""
        return {**_stacked(examples), **({"use_cache": False} if self.apart else {})}


@dataclass(frozen=True)
class Masked:
    """Tokens that a mask hides are predicted from both sides, as in BERT. `vocabulary`: the tokens of the tokenizer.

    `dtype` is that of the model's weights: eager attention adds the mask of the documents to products in it.
    """

    mask: int
    special: frozenset[int]
    vocabulary: int
    begin: int
    apart: bool
    seed: int
    dtype: torch.dtype = torch.float32
    name: Name = "masked"

    def example(self, ids_T: np.ndarray, number: int) -> Example:
        generator = np.random.default_rng((self.seed, number))
        inputs, labels = masked(
            ids_T, mask=self.mask, special=self.special, vocabulary=self.vocabulary, generator=generator
        )
        return {"input_ids": inputs, "labels": labels, **_positions(ids_T, self.begin, self.apart)}

    def batch(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """With documents apart an `attention_mask` of shape (B, 1, T, T): an encoder does not read it off positions."""
        stacked = _stacked(examples)
        return {**stacked, "attention_mask": _blocks(stacked["position_ids"], self.dtype)} if self.apart else stacked


@dataclass(frozen=True)
class Span:
    """Spans that are taken out are written behind the sentinels that stand for them, as in T5."""

    sentinels: tuple[int, ...]
    end: int
    start: int  # what the decoder reads first
    seed: int
    apart: bool = False
    name: Name = "span"

    def example(self, ids_T: np.ndarray, number: int) -> Example:
        """`input_ids`, `decoder_input_ids` and `labels`; the lengths are those of models.corruption.counts_of."""
        generator = np.random.default_rng((self.seed, number))
        read, written = spans(ids_T, sentinels=np.array(self.sentinels), end=self.end, generator=generator)
        return {"input_ids": read, "labels": written, "decoder_input_ids": np.append(self.start, written[:-1])}

    def batch(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        return _stacked(examples)


class Examples:
    """A map-style dataset: what an objective makes of each window, and of its number."""

    def __init__(self, windows: PackedWindows, objective: Objective):
        self.windows, self.objective = windows, objective

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Example:
        return self.objective.example(self.windows.ids(index), index)


def objective_of(model: nn.Module, tokenizer: Any, *, seed: int, apart: bool = True) -> Objective:
    """The objective that a model was made for. `apart` is given up where the model cannot keep documents apart.

    Raises ValueError for a masked or a span model whose tokenizer lacks the mask or the sentinels.
    """
    end, config = tokenizer.eos_token_id, model.config
    begin = (begins_with(tokenizer) or [end])[0]
    if config.is_encoder_decoder:
        sentinels = [token for token in tokenizer.get_added_vocab() if token.startswith("<extra_id_")]
        if not sentinels:
            raise ValueError(f"the tokenizer of this {config.model_type} has no <extra_id_0>: spans need sentinels")
        ids = tokenizer.convert_tokens_to_ids(sorted(sentinels, key=lambda token: int(token[10:-1])))
        return Span(tuple(ids), end, config.decoder_start_token_id, seed)
    if _is_masked(model):
        if tokenizer.mask_token_id is None:
            raise ValueError(f"the tokenizer of this {config.model_type} has no mask token: masked modelling needs one")
        special = frozenset(tokenizer.all_special_ids)
        apart = apart and keeps_apart(model)
        return Masked(tokenizer.mask_token_id, special, len(tokenizer), begin, apart, seed, model.dtype)
    return Causal(begin, apart and keeps_apart(model))


def loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None, *, shifted: bool
) -> torch.Tensor:
    """Mean cross-entropy in nats over the labels that are not -100; the sum over `num_items_in_batch` where given.

    `labels` (B, T), logits (B, T, V); `shifted` where a label is predicted from the token before it, as a causal model
    does. The same for every family, as the `compute_loss_func` of a Trainer: the losses
    inside some Hugging Face models leave `num_items_in_batch` out, so that micro-batches would not add up.
    """
    logits_BTV = outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]
    if shifted:
        labels = nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    total = nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / ((labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


@torch.no_grad()
def example_losses(model: nn.Module, data: Examples, *, size: int = 0) -> np.ndarray:
    """Mean loss of each example in nats per label, shape (examples,), in batches of `size`; 0: `held_out_batch`.

    Not in inference mode: a model may be trained afterwards, and what it caches there could not be trained through.
    """
    model.eval()
    objective = data.objective
    size = size or held_out_batch(model, data)
    losses = []
    for first in range(0, len(data), size):
        batch = objective.batch([data[i] for i in range(first, min(first + size, len(data)))])
        labels_BT = batch.pop("labels").to(model.device)
        batch = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        logits_BTV = model(**batch).logits.float()
        if objective.name == "causal":
            logits_BTV, labels_BT = logits_BTV[:, :-1], labels_BT[:, 1:]
        nll_BT = nn.functional.cross_entropy(
            logits_BTV.transpose(1, 2), labels_BT, reduction="none", ignore_index=IGNORED
        )
        losses.append(nll_BT.sum(dim=1) / (labels_BT != IGNORED).sum(dim=1).clamp(min=1))
    return torch.cat(losses).cpu().numpy()


def held_out_batch(model: nn.Module, data: Examples) -> int:
    """As many windows, 32 at most, as keep the logits below LOGITS, whatever the vocabulary."""
    each = len(data[0]["labels"]) * model.config.get_text_config().vocab_size
    return max(1, min(32, LOGITS // each))


def targets(data: Examples) -> np.ndarray:
    """The labels of every example, shape (examples, labels), -100 where nothing is predicted."""
    return np.stack([data[i]["labels"] for i in range(len(data))])


def keeps_apart(model: nn.Module) -> bool:
    """Whether a token of a packed window is predicted from its own document alone, tried out on the model itself.

    The gradient of what it says of a second document has to be exactly 0 at the first one.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    half, seen = 8, []

    def embedded(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    positions = torch.arange(half, device=model.device).repeat(1, 2)
    inputs: dict[str, Any] = {
        "input_ids": (positions + 1) % model.config.get_text_config().vocab_size,
        "position_ids": positions,
    }
    inputs |= {"attention_mask": _blocks(positions, model.dtype)} if _is_masked(model) else {"use_cache": False}
    training, handle = model.training, model.get_input_embeddings().register_forward_hook(embedded)
    try:
        with torch.enable_grad():
            said = model.eval()(**inputs).logits[0, half:].float()
            (gradient,) = torch.autograd.grad(said.square().sum(), seen[-1])
    finally:
        handle.remove()
        model.train(training)
    return not gradient[0, :half].any()


def _is_masked(model: nn.Module) -> bool:
    return type(model).__name__.endswith("ForMaskedLM")


def _positions(ids_T: np.ndarray, begin: int, apart: bool) -> Example:
    """Places within each document, from 0 at its `begin`, which a window's first document may lack."""
    if not apart:
        return {}
    places = np.arange(len(ids_T))
    begins = np.maximum.accumulate(np.where(ids_T == begin, places, 0))
    return {"position_ids": places - begins}


def _stacked(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.stack([each[name] for each in examples])) for name in examples[0]}


def _blocks(positions_BT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An additive mask of shape (B, 1, T, T): 0 within a document, the lowest number there is between two."""
    document_BT = (positions_BT == 0).cumsum(dim=1)
    same = document_BT[:, None, :, None] == document_BT[:, None, None, :]
    return torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill(~same, torch.finfo(dtype).min)
