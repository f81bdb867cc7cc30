"""A byte-level BPE tokenizer trained on the data, its chat template, and conversations as the ids of any tokenizer."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

END, USER, ASSISTANT, PAD = "<|endoftext|>", "<|user|>", "<|assistant|>", "<|pad|>"
SPECIAL = (END, PAD, USER, ASSISTANT)
Messages = Sequence[Mapping[str, str]]
OPENS, CLOSES = mark_control_tokens("-", re.compile("-")).split("-")  # the library's marks, of the private use area

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


class Rendered(NamedTuple):
    """A conversation as the chat template writes it, and whether letters of control tokens are marked in it."""

    text: str
    marked: bool


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """What finds the letters of a control token in a text: of a special one, or an added one that the template writes.

    Added tokens of whitespace are none. Raises ValueError for a tokenizer without a chat template.
    """
    template = tokenizer.get_chat_template()
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
    found = [token.content for token in added if token.special or token.content in template]
    return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))) or "(?!)")


def held(controls: re.Pattern[str], messages: Messages) -> str:
    """The first control token whose letters stand in messages, or an empty string."""
    matches = (controls.search(text) for message in messages for text in message.values())
    return next((match[0] for match in matches if match), "")


def chat_ids(
    tokenizer: Any, conversations: Sequence[Messages], *, add_generation_prompt: bool = False
) -> list[list[int]]:
    """The ids of each conversation; the letters of a control token in a message are text, as in a document.

    So every control token among them is the chat template's own. Where no message holds such letters, they are the
    ids of `apply_chat_template`.
    """
    return encoded(tokenizer, rendered(tokenizer, conversations, add_generation_prompt=add_generation_prompt))


def rendered(
    tokenizer: Any, conversations: Sequence[Messages], *, add_generation_prompt: bool = False
) -> list[Rendered]:
    """Conversations for `encoded`."""
    controls = control_tokens(tokenizer)
    return [_rendered(tokenizer, each, controls, bool(held(controls, each)), add_generation_prompt)
            for each in conversations]  # fmt: skip


def answered(
    tokenizer: Any, conversations: Sequence[Messages], answers: Sequence[str]
) -> list[tuple[Rendered, Rendered]]:
    """Each conversation with its generation prompt, and that with the answer and the stop token, for `encoded`."""
    controls, pairs = control_tokens(tokenizer), []
    for conversation, answer in zip(conversations, answers, strict=True):
        marked = bool(held(controls, [*conversation, {"content": answer}]))
        head = _rendered(tokenizer, conversation, controls, marked, True)
        text = mark_control_tokens(answer, controls) if marked else answer
        pairs.append((head, Rendered(head.text + text + tokenizer.eos_token, marked)))
    return pairs


def encoded(tokenizer: Any, texts: Sequence[Rendered]) -> list[list[int]]:
    """The ids of rendered conversations."""
    plain = [each.text for each in texts if not each.marked]
    ids = iter(tokenizer(plain, add_special_tokens=False)["input_ids"] if plain else [])
    return [_unmarked(tokenizer, each.text) if each.marked else next(ids) for each in texts]


def _rendered(
    tokenizer: Any, conversation: Messages, controls: re.Pattern[str], marked: bool, add_generation_prompt: bool
) -> Rendered:
    messages = mark_control_tokens(list(conversation), controls) if marked else conversation
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    return Rendered(text, marked)


def _unmarked(tokenizer: Any, text: str) -> list[int]:
    try:
        return encode_marked_chat(tokenizer, text)
    except ValueError:
        # A unigram model holds its control tokens as pieces of text too, and takes them for the likeliest: a mark
        # behind each letter keeps the letters apart.
        apart = re.sub(f"{OPENS}([^{OPENS}{CLOSES}]*){CLOSES}", lambda found: OPENS.join(found[1]) + CLOSES, text)
        return encode_marked_chat(tokenizer, apart)
