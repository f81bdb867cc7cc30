"""What a model is: one of seven families at any size from one dial.

transformers is imported where a model is built: whoever only counts parameters need not wait for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from models.corruption import counts_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Family: TypeAlias = Literal["llama", "gpt2", "bloom", "palm", "bert", "t5", "lstm"]
Objective: TypeAlias = Literal["causal", "masked", "span"]
OBJECTIVES: Mapping[Family, Objective] = {
    "llama": "causal", "gpt2": "causal", "bloom": "causal", "palm": "causal", "lstm": "causal",
    "bert": "masked", "t5": "span",
}  # fmt: skip
DECODERS: tuple[Family, ...] = ("llama", "gpt2", "bloom", "palm")  # what can be fine-tuned to answer
HEAD = 32  # dimensions per attention head


class Dimensions(BaseModel):
    """The dimensions that the dial `size` sets: width in multiples of 32, depth and heads in proportion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Family = "llama"
    hidden: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    intermediate: int = Field(gt=0)
    decoder_layers: int = Field(0, ge=0, description="Of an encoder-decoder, beside its `layers` of encoder.")


class Recurrent(BaseModel):
    """The dimensions of the LSTM: as wide as the decoder of the same dial, and as deep as makes them equally large."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["lstm"] = "lstm"
    hidden: int = Field(gt=0)
    layers: int = Field(gt=0)


Shape: TypeAlias = Dimensions | Recurrent


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
        intermediate=_multiple(hidden * 8 / 3),
    )


def shape_of(size: int, family: Family = "llama") -> Shape:
    """The dimensions of any family, about as large without embeddings as the Llama of the same dial.

    A Llama layer holds 4 h^2 of attention and 3 h f = 8 h^2 of SwiGLU. GPT-2, BLOOM and BERT have the same 12 h^2 with
    f = 4 h and two matrices; PaLM's one key and value head leaves 2 h^2 for a wider SwiGLU; T5 shares the layers among
    encoder and decoder, which has 4 h^2 more of cross-attention; an LSTM layer holds 8 h^2. Raises ValueError for a
    size below 1.
    """
    llama = dimensions(size)
    h = llama.hidden
    if family in ("gpt2", "bloom", "bert"):
        return llama.model_copy(update={"family": family, "intermediate": 4 * h})
    if family == "palm":
        return llama.model_copy(update={"family": family, "intermediate": _multiple(h * 10 / 3)})
    if family == "t5":
        decoder = max(1, llama.layers // 2)
        return llama.model_copy(
            update={"family": family, "layers": max(1, llama.layers - decoder), "decoder_layers": decoder}
        )
    if family == "lstm":
        weights = llama.layers * (4 * h * h + 3 * h * llama.intermediate)
        return Recurrent(hidden=h, layers=max(1, round(weights / (8 * h * h + 8 * h))))
    return llama


def added_tokens(family: Family, context: int) -> tuple[str, ...]:
    """The special tokens that a family needs beside those of the tokenizer, for windows of `context` tokens.

    Names as BERT and T5 have them.
    """
    objective = OBJECTIVES[family]
    if objective == "masked":
        return ("[MASK]",)
    return tuple(f"<extra_id_{i}>" for i in range(counts_of(context).spans)) if objective == "span" else ()


def with_added_tokens(tokenizer: Any, family: Family, context: int) -> Any:
    """The tokenizer with the special tokens of the family behind its own: what is encoded already stays as it is."""
    added = list(added_tokens(family, context))
    if OBJECTIVES[family] == "masked" and tokenizer.mask_token is None:
        tokenizer.add_special_tokens({"mask_token": added[0]})
    if OBJECTIVES[family] == "span":
        tokenizer.add_tokens(added, special_tokens=True)
    return tokenizer


def build(shape: Shape, *, vocabulary: int, context: int, special: Mapping[str, int], seed: int) -> "PreTrainedModel":
    """A freshly initialised model with tied embeddings. `special` gives the bos, eos and pad token ids."""
    import torch
    import transformers

    if isinstance(shape, Recurrent):
        from models.lstm import LSTMForCausalLM, register

        register()
        kind: Any = LSTMForCausalLM
    else:
        kind = getattr(transformers, _CLASSES[shape.family][1])
    torch.manual_seed(seed)
    return kind(config_of(shape, vocabulary=vocabulary, context=context, special=special))


def config_of(shape: Shape, *, vocabulary: int, context: int, special: Mapping[str, int]) -> "PreTrainedConfig":
    """The Hugging Face config of a shape. PaLM (Chowdhery et al. 2022, 2204.02311, section 2) is built as Cohere's
    decoder, which has the same block: attention and SwiGLU side by side behind one norm, no biases, rotary positions.
    """
    import transformers

    ids = {f"{name}_token_id": token for name, token in special.items()}
    if isinstance(shape, Recurrent):
        from models.lstm import LSTMConfig

        return LSTMConfig(
            vocab_size=vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
            max_position_embeddings=context, **ids,
        )  # fmt: skip
    own = _OWN[shape.family](shape, context)
    if shape.family == "t5":
        ids["decoder_start_token_id"] = special["pad"]
    # bf16 autocast with eager attention is the fastest pair on a CPU at short context
    return getattr(transformers, _CLASSES[shape.family][0])(
        vocab_size=vocabulary, tie_word_embeddings=True, attn_implementation="eager", **ids, **own
    )


def fresh_model(size: int, tokenizer: Any, *, seed: int, family: Family = "llama") -> "PreTrainedModel":
    """A model of the dial `size` for a tokenizer: its vocabulary, its longest sequence, its special tokens."""
    special = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    return build(
        shape_of(size, family), vocabulary=len(tokenizer), context=tokenizer.model_max_length, special=special,
        seed=seed,
    )  # fmt: skip


def load(folder: Path, **options: Any) -> "PreTrainedModel":
    """A saved model under the head that it was trained with. `options` as for `from_pretrained`."""
    from transformers import AutoConfig

    from models.lstm import register

    register()
    return class_for(AutoConfig.from_pretrained(folder)).from_pretrained(folder, **options)


def class_for(config: "PreTrainedConfig") -> Any:
    """The Auto class of the head that the model of a config was trained with."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    masked = any(name.endswith("ForMaskedLM") for name in config.architectures or ())
    return AutoModelForMaskedLM if masked else AutoModelForCausalLM


def family_of(model: "PreTrainedModel") -> str:
    """The family of a model; of one that is none of ours, what transformers calls it."""
    known = {"cohere": "palm", "evergreen_lstm": "lstm"}
    return known.get(model.config.model_type, model.config.model_type)


def _multiple(width: float) -> int:
    return max(32, round(width / 32) * 32)


_CLASSES: Mapping[str, tuple[str, str]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "bloom": ("BloomConfig", "BloomForCausalLM"),
    "palm": ("CohereConfig", "CohereForCausalLM"),
    "bert": ("BertConfig", "BertForMaskedLM"),
    "t5": ("T5Config", "T5ForConditionalGeneration"),
}


def _llama(shape: Dimensions, context: int) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads, "max_position_embeddings": context,
    }  # fmt: skip


def _palm(shape: Dimensions, context: int) -> dict[str, Any]:
    return {**_llama(shape, context), "num_key_value_heads": 1, "logit_scale": 1.0}


def _gpt2(shape: Dimensions, context: int) -> dict[str, Any]:
    # no dropout: a text of which little is read twice needs none
    return {
        "n_embd": shape.hidden, "n_inner": shape.intermediate, "n_layer": shape.layers, "n_head": shape.heads,
        "n_positions": context, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip


def _bloom(shape: Dimensions, context: int) -> dict[str, Any]:
    # ALiBi: no positions to be counted; the width of its feed-forward is always four times the hidden one
    return {"hidden_size": shape.hidden, "n_layer": shape.layers, "n_head": shape.heads}


def _bert(shape: Dimensions, context: int) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "max_position_embeddings": context, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip


def _t5(shape: Dimensions, context: int) -> dict[str, Any]:
    """T5 1.1: gated feed-forward, no dropout in pre-training."""
    return {
        "d_model": shape.hidden, "d_kv": HEAD, "d_ff": shape.intermediate, "num_layers": shape.layers,
        "num_decoder_layers": shape.decoder_layers, "num_heads": shape.heads, "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
    }  # fmt: skip


_OWN: Mapping[str, Any] = {
    "llama": _llama, "gpt2": _gpt2, "bloom": _bloom, "palm": _palm, "bert": _bert, "t5": _t5,
}  # fmt: skip
