"""What a model is: a Llama decoder, or an LSTM to compare it with, of any size from one dial.

transformers is imported where a model is built: whoever only counts parameters need not wait for it.
"""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from models.lstm import LSTMForCausalLM

Family: TypeAlias = Literal["llama", "lstm"]
HEAD = 32  # dimensions per attention head


class Dimensions(BaseModel):
    """The dimensions that the dial `size` sets: width in multiples of 32, depth and heads in proportion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    intermediate: int = Field(gt=0)


def dimensions(size: int) -> Dimensions:
    """Width 32 * size, one layer per 48 of width (3 at least), SwiGLU of 8/3 the width in multiples of 32.

    Multiples of 32 keep every quantised export format open. Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; the dial starts at 1")
    hidden = 32 * size
    return Dimensions(
        hidden=hidden,
        layers=max(3, round(hidden / 48)),
        heads=hidden // HEAD,
        intermediate=max(32, round(hidden * 8 / 3 / 32) * 32),
    )


class Recurrent(BaseModel):
    """The dimensions of the LSTM: as wide as the decoder of the same dial, and as deep as makes them equally large."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(gt=0)
    layers: int = Field(gt=0)


Shape: TypeAlias = Dimensions | Recurrent


def shape_of(size: int, family: Family = "llama") -> Shape:
    """The dimensions of either family. An LSTM takes the number of layers that comes closest to the decoder's N.

    A layer of it holds 8 h^2 + 8 h, the decoder's without embeddings L (4 h^2 + 3 h f): about 1.5 layers for one.
    Raises ValueError for a size below 1.
    """
    decoder = dimensions(size)
    if family == "llama":
        return decoder
    h = decoder.hidden
    weights = decoder.layers * (4 * h * h + 3 * h * decoder.intermediate)
    return Recurrent(hidden=h, layers=max(1, round(weights / (8 * h * h + 8 * h))))


def build(
    shape: Dimensions, *, vocabulary: int, context: int, special: dict[str, int], seed: int
) -> "LlamaForCausalLM":
    """A freshly initialised Llama with tied embeddings. `special` gives the bos, eos and pad token ids."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
        pad_token_id=special["pad"],
        # bf16 autocast with eager attention is the fastest pair on a CPU at short context
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def build_lstm(
    shape: Recurrent, *, vocabulary: int, context: int, special: dict[str, int], seed: int
) -> "LSTMForCausalLM":
    """A freshly initialised LSTM with tied embeddings."""
    import torch

    from models.lstm import LSTMConfig, LSTMForCausalLM, register

    register()
    torch.manual_seed(seed)
    config = LSTMConfig(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        max_position_embeddings=context,
        bos_token_id=special["bos"],
        eos_token_id=special["eos"],
        pad_token_id=special["pad"],
    )
    return LSTMForCausalLM(config)


def fresh_model(
    size: int, tokenizer: Any, *, seed: int, family: Family = "llama"
) -> "LlamaForCausalLM | LSTMForCausalLM":
    """A model of the dial `size` for a tokenizer: its vocabulary, its longest sequence, its special tokens."""
    special = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    shared: dict[str, Any] = {
        "vocabulary": len(tokenizer), "context": tokenizer.model_max_length, "special": special, "seed": seed,
    }  # fmt: skip
    shape = shape_of(size, family)
    return build(shape, **shared) if isinstance(shape, Dimensions) else build_lstm(shape, **shared)
