"""A byte-level BPE tokenizer trained on the data, with a chat template that marks the assistant's part."""

from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END, USER, ASSISTANT, PAD = "<|endoftext|>", "<|user|>", "<|assistant|>", "<|pad|>"
SPECIAL = (END, PAD, USER, ASSISTANT)

# One token opens a turn: a small model pays for every token of the frame. An answer ends as a document does, with a
# token that pre-training has taught. It stands inside {% generation %}, else the loss mask leaves it out and the
# model never learns to stop.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    f"{{{{- '{ASSISTANT}' -}}}}{{%- generation -%}}{{{{- message['content'] + '{END}' -}}}}{{%- endgeneration -%}}"
    "{%- else -%}"
    f"{{{{- '{USER}' + message['content'] -}}}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{{{{- '{ASSISTANT}' -}}}}{{%- endif -%}}"
)


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE of `vocabulary` tokens, the special ones included.

    Every byte is in the alphabet, so any text survives a round trip. Raises ValueError below 256 + 4 tokens.
    """
    if vocabulary < 256 + len(SPECIAL):
        raise ValueError(f"a vocabulary of {vocabulary} cannot hold the 256 bytes and {len(SPECIAL)} special tokens")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=context,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def begins_with(tokenizer: Any) -> list[int]:
    """The token that this tokenizer puts before every text, or none: a model that learned with it expects it there."""
    first = tokenizer("a")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def asked(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The messages that a row's answer follows: the turns of its `history`, then its prompt."""
    return [*row.get("history", ()), {"role": "user", "content": row["prompt"]}]
