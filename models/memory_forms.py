"""The closed form of the peak memory of training: decoders built like Llama, answered at once.

Symbols: h hidden, q and k the widths of all queries and of all keys, f intermediate, L layers, a heads, s sequence, r
rank of LoRA, V vocabulary, T = s b tokens of a micro-batch. Counts of bytes per token were read off steps on tensors
without content and are exact for transformers 5.23; that the peak lies at one of seven moments is approximate.
"""

from typing import Any, NamedTuple

from models.fake_step import PARTS, SHARDED, Peak, gathered
from models.model_counts import EIGHT_BIT, attention
from models.training_step import QUANTISED, Step

FAMILIES = ("llama", "mistral", "qwen2")


class Saved(NamedTuple):
    """Bytes per token. A layer keeps (h, q, k, f, a s, a, r, 1) for its backward; what lies outside the layers h.

    `feed` is what the backward of the last feed-forward holds beyond that as (h, f, r), `norm` that of the last norm
    in h, `scores` that of the attention as (h, q, f, a s).
    """

    layer: tuple[float, ...]
    outside: float
    feed: tuple[float, float, float]
    norm: float
    scores: tuple[float, float, float, float] | None = None


SAVED = {  # by precision, attention and whether LoRA trains adapters alone
    ("fp32", "sdpa", False): Saved((24, 8, 8, 16, 0, 4, 0, 8), 12, (-8, 8, 0), 12),
    ("fp32", "sdpa", True): Saved((16, 8, 8, 16, 0, 4, 28, 8), 0, (0, 8, -4), 20),
    ("fp32", "eager", False): Saved((24, 16, 0, 16, 4, 0, 0, 8), 12, (-8, 8, 0), 12, (-20, -4, -16, 8)),
    ("bf16", "sdpa", False): Saved((16, 4, 4, 8, 0, 4, 0, 8), 8, (-6, 4, 0), 16),
    ("bf16", "sdpa", True): Saved((28, 8, 4, 10, 0, 4, 28, 8), 0, (4, 4, -4), 20),
    ("bf16-autocast", "sdpa", False): Saved((26, 4, 4, 8, 0, 4, 0, 8), 10, (-6, 4, 0), 14),
    ("bf16-autocast", "sdpa", True): Saved((18, 6, 4, 8, 0, 4, 14, 8), 0, (10, 6, 0), 20),
    ("bf16", "eager", False): Saved((16, 8, 0, 8, 6, 0, 0, 8), 8, (-6, 4, 0), 16, (-14, -2, -8, 6)),
    ("bf16-autocast", "eager", False): Saved((26, 8, 0, 8, 6, 0, 0, 8), 10, (-6, 4, 0), 14, (-18, -2, -8, 6)),
}  # fmt: skip


class Decoder(NamedTuple):
    """The shape of a decoder built like Llama."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    queries: int
    keys: int
    intermediate: int
    tied: bool
    biases: int  # of a layer


def decoder_of(config: Any) -> Decoder:
    """The shape in a config of one of FAMILIES."""
    _, heads, dimensions, kv = attention(config)
    q, k = heads * dimensions, kv * dimensions
    biases = q + 2 * k if config.model_type == "qwen2" else 0
    if config.model_type == "llama":
        biases = (q + 2 * k + config.hidden_size) * config.attention_bias
        biases += (2 * config.intermediate_size + config.hidden_size) * config.mlp_bias
    return Decoder(config.vocab_size, config.hidden_size, config.num_hidden_layers, heads, q, k,
                   config.intermediate_size, config.tie_word_embeddings, biases)  # fmt: skip


def unknown(config: Any, step: Step) -> str:
    """What the closed form does not know of a config and a step; empty where it knows both."""
    if config.model_type not in FAMILIES:
        return f"the family {config.model_type}, only {', '.join(FAMILIES)}"
    if _key(step) not in SAVED:
        return f"{step.precision} with {_key(step)[1]} attention{' and LoRA' if step.lora else ''}"
    if _key(step)[1] == "eager" and config.num_key_value_heads == 1:
        return "eager attention with one head for keys"
    if step.embeddings or step.autocast:
        return "embeddings trained beside LoRA" if step.embeddings else f"{step.precision} under autocast"
    if step.documents:
        return "a mask that keeps documents apart"
    return ""


def training_peak(config: Any, step: Step) -> Peak:
    """The most bytes on one device in a step, and what they are by part.

    The largest of seven moments: the loss, forward and backward; the backward of the head; that of the last layer, when
    all activations are there; that of the first layer, when nearly all gradients are; the embedding's gradient; the
    optimizer. Raises ValueError for what `unknown` names.
    """
    if why := unknown(config, step):
        raise ValueError(f"the closed form does not know {why}")
    shape = decoder_of(config)
    standing = _standing(shape, step)
    moments = [standing | moment for moment in _moments(shape, step)]
    highest = max(moments, key=lambda parts: sum(parts.values()))
    parts = {part: round(highest.get(part, 0)) for part in PARTS}
    return Peak(sum(parts.values()), parts)


def _standing(shape: Decoder, step: Step) -> dict[str, float]:
    """Weights and optimizer states: there all the time."""
    matrices, adapters = shape.layers * _matrices(shape), _adapters(shape, step)
    total = matrices + shape.layers * (2 * shape.hidden + shape.biases) + shape.hidden
    total += shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    weights = _size(step) * (total - matrices) + _matrix_size(step) * matrices + 4 * adapters
    trained = 4 * adapters if step.lora else _size(step) * total
    narrow = EIGHT_BIT / (4 if step.lora else _size(step))
    states = {"sgd": 0.0, "adamw-8bit": narrow}.get(step.optimizer, 2.0) * trained
    if step.optimizer == "muon":  # one moment for what stands between embedding and head
        states -= 4 * adapters if step.lora else _size(step) * matrices
    parts = _divided({"weights": weights, "optimizer": states, "gradients": trained}, step)
    layer = _matrices(shape) + 2 * shape.hidden + shape.biases + _adapters(shape, step) // shape.layers
    parts["weights"] += gathered(step, layer)
    return parts


def _moments(shape: Decoder, step: Step) -> list[dict[str, float]]:
    saved, tokens = SAVED[_key(step)], step.batch * step.sequence
    V, h, L = shape.vocabulary, shape.hidden, shape.layers
    whole = _standing(shape, step)["gradients"]
    kept = tokens * _size(step) * h  # the input of a layer
    layer = tokens * _layer(saved, shape, step)
    outside = tokens * (saved.outside * h + 16) + (kept if step.checkpointing and step.lora else 0)
    held, again = (L * kept, layer) if step.checkpointing else (L * layer, 0)
    feed, norm, scores = _backward(saved, shape, step)
    widest = tokens * max(feed, scores)
    share = step.devices if "other" in SHARDED[step.sharding] else 1
    copied = 2 * (_matrices(shape) + _adapters(shape, step) / L) / share if step.precision == "bf16-autocast" else 0
    copies = copied if step.checkpointing else L * copied
    head = 0 if step.lora else _divided({"gradients": float(_size(step) * V * h)}, step)["gradients"]
    # the gradients of a tied head and embedding stand beside their sum, and a new gradient beside an old one
    copies_of = (2 if shape.tied else 0) + (1 if step.accumulated else 0)
    embedding = 0 if step.lora else _size(step) * V * h * copies_of / share
    waiting = _size(step) * V * h / share if step.accumulated and shape.tied and not step.lora else 0
    # what the first layer and an embedding of its own have no gradients for while the last of them is computed
    one = _matrices(shape) + (0 if shape.tied else V * h)
    first = whole / L if step.lora else _divided({"gradients": float(_size(step) * one)}, step)["gradients"]
    at_loss = 2 * V * h / share + (0 if step.checkpointing else copies) if copied else 0
    # autocast keeps the copies of trained weights until the forward ends, whatever is computed again
    cached = at_loss + L * copied if step.checkpointing and copied and not step.lora else at_loss
    before = whole if step.accumulated else 0
    return [
        {"gradients": before, "activations": held + outside + kept, "logits": 10 * tokens * V, "other": cached},
        {"gradients": before, "activations": held + outside, "logits": 12 * tokens * V, "other": at_loss},
        {"gradients": before or head, "activations": held + outside, "logits": 4 * tokens * V,
         "other": copies + (_size(step) * V * h / share if before and not step.lora else 0)},
        {"gradients": before or head, "activations": held + outside + max(again + widest, tokens * norm),
         "other": copies + waiting},
        {"gradients": before or whole - first, "activations": layer + outside + widest + (kept if again else 0),
         "other": copied + waiting},
        {"gradients": whole, "activations": kept, "other": embedding},
        {"gradients": whole, "other": _scratch(shape, step, whole)},
    ]  # fmt: skip


def _scratch(shape: Decoder, step: Step, gradients: float) -> float:
    """What the optimizer works in. Muon takes one matrix after another: its update, two of its orthogonal factor in
    bf16 and two Gram matrices of its shorter side.
    """
    if step.optimizer == "adamw-foreach":
        return gradients
    if step.optimizer != "muon":
        return 0.0
    widest = max(shape.intermediate, shape.queries)
    rows, columns = (step.lora, max(widest, shape.hidden)) if step.lora else (shape.hidden, widest)
    update = 0 if step.precision == "bf16" and not step.lora else 4
    return (update + 4) * rows * columns + 4 * min(rows, columns) ** 2


def _backward(saved: Saved, shape: Decoder, step: Step) -> tuple[float, float, float]:
    """Bytes per token of the three moments of a layer's backward, beside what is saved and what lies outside."""
    h, q, f = shape.hidden, shape.queries, shape.intermediate
    feed = saved.feed[0] * h + saved.feed[1] * f + saved.feed[2] * step.lora
    scores = 0.0
    if saved.scores:
        by_h, by_q, by_f, by_as = saved.scores
        scores = by_h * h + by_q * q + by_f * f + by_as * shape.heads * step.sequence
    return feed, saved.norm * h, scores


def _layer(saved: Saved, shape: Decoder, step: Step) -> float:
    """Bytes that one layer keeps for its backward, per token."""
    sizes = (shape.hidden, shape.queries, shape.keys, shape.intermediate, shape.heads * step.sequence, shape.heads,
             step.lora, 1)  # fmt: skip
    return sum(count * size for count, size in zip(saved.layer, sizes, strict=True))


def _divided(parts: dict[str, float], step: Step) -> dict[str, float]:
    shared = SHARDED[step.sharding]
    return {part: value / step.devices if part in shared else value for part, value in parts.items()}


def _matrices(shape: Decoder) -> int:
    """Weights of a layer that multiply: four projections of attention, three of SwiGLU."""
    return 2 * shape.hidden * (shape.queries + shape.keys) + 3 * shape.hidden * shape.intermediate


def _adapters(shape: Decoder, step: Step) -> int:
    h, q, k, f = shape.hidden, shape.queries, shape.keys, shape.intermediate
    return step.lora * shape.layers * (2 * (h + q) + 2 * (h + k) + 3 * (h + f))


def _size(step: Step) -> int:
    return 4 if step.precision in ("fp32", "bf16-autocast") else 2


def _matrix_size(step: Step) -> float:
    """Bytes of a weight of a layer's matrices, scales of quantisation included but for int8's, which are one a row."""
    return {"int8": 1.0, "int4": 0.5 + 4 / 64}.get(step.precision, float(_size(step)))


def _key(step: Step) -> tuple[str, str, bool]:
    precision = "bf16" if step.precision in QUANTISED else step.precision
    return precision, "eager" if step.attention == "eager" else "sdpa", bool(step.lora)
