"""What a model costs before it exists: parameters, FLOPs per token, peak memory of training, bytes on disk.

Symbols: V vocabulary, h hidden, f intermediate, L layers, a heads, s context, b windows per micro-batch,
T = s b tokens.
"""

from typing import Literal

from models.architectures import Dimensions, Recurrent, Shape

Precision = Literal["bf16", "fp32"]

# Bytes that autograd keeps per layer and token as multiples of (h, f, a s, 1), and per token outside the layers as a
# multiple of h: HF Llama with eager attention, counted with saved-tensor hooks, exact on every shape tried. bf16 is
# autocast on fp32 weights: half-precision inputs of each product, an fp32 residual stream and fp32 norms.
_SAVED: dict[str, tuple[int, int, int, int]] = {"bf16": (34, 8, 6, 8), "fp32": (40, 16, 4, 8)}
_OUTSIDE: dict[str, int] = {"bf16": 10, "fp32": 12}
_LOGITS = 12  # three fp32 copies in the backward of the cross-entropy: log-probabilities and two gradients


def parameters(shape: Shape, vocabulary: int, *, tied: bool = True) -> dict[str, int]:
    """Exact counts for the models of models/architectures.py: `total`, `embedding` and `non_embedding`.

    `embedding` holds the input embedding and, where it is not tied, the head; `non_embedding` is the rest, the N of
    Kaplan et al. 2020: L (4 h^2 + 3 h f + 2 h) + h for the Llama, L (8 h^2 + 9 h) + h for the LSTM, whose biases torch
    keeps twice.
    """
    h = shape.hidden
    embedding = vocabulary * h * (1 if tied else 2)
    gains = 9 * h if isinstance(shape, Recurrent) else 2 * h
    rest = shape.layers * (_layer_weights(shape) + gains) + h
    return {"total": embedding + rest, "embedding": embedding, "non_embedding": rest}


def flops_per_token(shape: Shape, vocabulary: int, context: int) -> int:
    """Training FLOPs per token, 6 N + 12 L H Q T (Chowdhery et al. 2022, 2204.02311, appendix B; T the context).

    N is the weights that multiply: without the input embedding and the gains of the norms, with the head, tied or
    not. Attention is counted in full, as eager attention computes it, not halved for causality; an LSTM has none.
    """
    weights = shape.layers * _layer_weights(shape) + vocabulary * shape.hidden
    attention = 0 if isinstance(shape, Recurrent) else 12 * shape.layers * shape.hidden * context
    return 6 * weights + attention


def training_peak_bytes(
    shape: Dimensions,
    vocabulary: int,
    *,
    context: int,
    batch: int,
    precision: Precision = "bf16",
    accumulated: bool = False,
) -> int:
    """The most bytes that tensors take in a step of full training with fused AdamW and eager attention.

    12 P (fp32 weights and two moments) + the largest of
    - the loss: activations L saved(T) + outside(T), 12 T V for the logits, 2 bytes per weight of bf16 copies;
    - the first layer of the backward: the same without the logits, plus the gradients of the head and of one layer;
    - the end of the backward: 4 P of gradients and one layer's activations.
    With gradient accumulation 4 P of gradients also stand beside the loss. The counts of what is saved are exact; that
    the peak lies at one of three moments is approximate (see the tests for the error). Left out: the framework itself,
    fragmentation, a CUDA context, data loading.
    """
    tokens = context * batch
    total = parameters(shape, vocabulary)["total"]
    layer, head = _layer_weights(shape), vocabulary * shape.hidden
    saved = tokens * _saved_per_token(shape, context, precision)
    copies = 2 if precision == "bf16" else 0
    held = shape.layers * (saved + copies * layer) + copies * head + _OUTSIDE[precision] * tokens * shape.hidden
    gradients = 4 * total if accumulated else 0
    moments = (
        held + _LOGITS * tokens * vocabulary + gradients,
        held + (gradients or 4 * (head + layer)),
        4 * total + saved + copies * layer,
    )
    return 12 * total + max(moments)


def disk_bytes(shape: Shape, vocabulary: int, *, tied: bool = True, bytes_per_weight: int = 4) -> dict[str, int]:
    """Bytes of the saved `weights` and of a resumable `checkpoint` (weights and two fp32 moments), headers left out."""
    total = parameters(shape, vocabulary, tied=tied)["total"]
    return {"weights": bytes_per_weight * total, "checkpoint": (bytes_per_weight + 8) * total}


def _layer_weights(shape: Shape) -> int:
    """The weights of one layer that multiply: four projections of attention, three of SwiGLU; two for four gates."""
    if isinstance(shape, Recurrent):
        return 8 * shape.hidden**2
    return 4 * shape.hidden**2 + 3 * shape.hidden * shape.intermediate


def _saved_per_token(shape: Dimensions, context: int, precision: Precision) -> int:
    hidden, intermediate, scores, fixed = _SAVED[precision]
    return hidden * shape.hidden + intermediate * shape.intermediate + scores * shape.heads * context + fixed
