"""What a dial costs before a model of it exists: parameters, training FLOPs per token, bytes on disk.

Symbols: V vocabulary, h hidden, f intermediate, L layers, a heads, T context. What a step holds in memory is in
models/memory_forms.py and models/fake_step.py.
"""

from models.architectures import HEAD, Dimensions, Recurrent, Shape
from models.corruption import counts_of

BUCKETS = 32  # of T5's relative positions, a weight for each and head, once in the encoder and once in the decoder
TYPES = 2  # of BERT's segments, of which pre-training uses one


def parameters(shape: Shape, vocabulary: int, *, positions: int = 0, tied: bool = True) -> dict[str, int]:
    """Exact counts for the models of models/architectures.py: `total`, `embedding` and `non_embedding`.

    `embedding` holds the input embedding and, where it is not tied, the head; `non_embedding` is the rest, the N of
    Kaplan et al. 2020, but for the table of `positions` that GPT-2 and BERT learn, which counts as embedding there.
    """
    h = shape.hidden
    embedding = vocabulary * h * (1 if tied else 2)
    rest = sum(_matrices(shape)) + _small(shape, vocabulary)
    table = positions * h if shape.family in ("gpt2", "bert") else 0
    return {"total": embedding + table + rest, "embedding": embedding + table, "non_embedding": rest}


def flops_per_token(shape: Shape, vocabulary: int, context: int) -> int:
    """Training FLOPs per token of a window, 6 N + 12 L h T (Chowdhery et al. 2022, 2204.02311, appendix B).

    N is the weights that multiply: without embeddings, biases and the gains of the norms, with the head, tied or not.
    Attention is counted in full, as eager attention computes it, not halved for causality; an LSTM has none. T5 reads
    fewer tokens than the window has and writes a few, so its sum over both is divided by the window.
    """
    encoder, decoder = _matrices(shape)
    h, L = shape.hidden, shape.layers
    if isinstance(shape, Recurrent):
        return 6 * (encoder + vocabulary * h)
    if shape.family != "t5":
        return 6 * (encoder + vocabulary * h) + 12 * L * h * context
    _, _, read, written = counts_of(context)
    # keys and values of the cross-attention are made of what was read
    across = 2 * shape.decoder_layers * h * h
    products = (encoder + across) * read + (decoder - across + vocabulary * h) * written
    scores = h * (L * read * read + shape.decoder_layers * written * (written + read))
    return round((6 * products + 12 * scores) / context)


def disk_bytes(shape: Shape, vocabulary: int, *, positions: int = 0, bytes_per_weight: int = 4) -> dict[str, int]:
    """Bytes of the saved `weights` and of a resumable `checkpoint` (weights and two fp32 moments), headers left out."""
    total = parameters(shape, vocabulary, positions=positions)["total"]
    return {"weights": bytes_per_weight * total, "checkpoint": (bytes_per_weight + 8) * total}


def _matrices(shape: Shape) -> tuple[int, int]:
    """Weights that multiply: those of a token that is read and, of an encoder-decoder, of one that is written.

    Four projections of attention (PaLM: one head of keys and values for all), SwiGLU of three matrices or a
    feed-forward of two, eight matrices of an LSTM's gates; BERT's head has a matrix of its own.
    """
    h = shape.hidden
    if isinstance(shape, Recurrent):
        return shape.layers * 8 * h * h, 0
    attention = 2 * h * h + 2 * h * HEAD if shape.family == "palm" else 4 * h * h
    feed = (2 if shape.family in ("gpt2", "bloom", "bert") else 3) * h * shape.intermediate
    head = h * h if shape.family == "bert" else 0
    return shape.layers * (attention + feed) + head, shape.decoder_layers * (2 * attention + feed)


def _small(shape: Shape, vocabulary: int) -> int:
    """Biases, gains of norms, and small tables: what multiplies no vector."""
    h, L = shape.hidden, shape.layers
    if isinstance(shape, Recurrent):
        return L * 9 * h + h  # torch keeps an LSTM's biases twice
    if shape.family in ("llama", "palm"):
        return (2 if shape.family == "llama" else 1) * L * h + h
    if shape.family == "t5":
        return 2 * L * h + 3 * shape.decoder_layers * h + 2 * h + 2 * BUCKETS * shape.heads
    return L * (9 * h + shape.intermediate) + _outside(shape, vocabulary)


def _outside(shape: Dimensions, vocabulary: int) -> int:
    """Of families with biases: GPT-2 has a norm at its end, BLOOM one more behind the embedding, BERT another head."""
    h = shape.hidden
    if shape.family == "bert":
        return TYPES * h + 2 * h + 3 * h + vocabulary
    return 2 * h if shape.family == "gpt2" else 4 * h
