"""Conversations as token ids: what a message says is text, and control tokens are those of the chat template alone."""

import itertools
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from models.tokenizer import (
    ASSISTANT,
    END,
    SPECIAL,
    USER,
    answered,
    chat_ids,
    control_tokens,
    encoded,
    held,
    train_tokenizer,
)

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = [*string.ascii_letters, *"<>/|[].,!?'_-"]
THINKS = "<think>"
INSTRUCTED = (
    "{{- bos_token -}}{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
    "{{- '[INST] ' + message['content'].strip() + ' [/INST]' -}}{%- elif message['role'] == 'system' -%}"
    "{{- message['content'].strip() + '\n\n' -}}{%- else -%}"
    "{{- ' " + THINKS + "' + message['content'].strip() + ' ' + eos_token -}}{%- endif -%}{%- endfor -%}"
)


def bytes_() -> Any:
    return train_tokenizer(["The quick brown fox jumps over the <|lazy|> dog. " * 20], vocabulary=320, context=64)


def pieces() -> Any:
    """A tokenizer as Llama 2 has it: a space before the text, contents stripped, bytes for what it does not know."""
    vocabulary = ["<unk>", "<s>", "</s>", *BYTES, "▁", *LETTERS, "▁a", "he", "▁<", "</"]
    merges = [("▁", "a"), ("h", "e"), ("▁", "<"), ("<", "/")]
    ids = {token: number for number, token in enumerate(vocabulary)}
    backend = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _instructed(backend, decoders.Strip(" ", 1, 0))


def unigram() -> Any:
    """A tokenizer as T5 has it, whose pieces hold the letters of its control tokens, the likeliest of all."""
    control = [(token, 0.0) for token in ("<unk>", "<s>", "</s>")]
    known = [(token, -20.0) for token in BYTES] + [("▁", -3.0)] + [(letter, -5.0) for letter in LETTERS]
    backend = Tokenizer(models.Unigram(control + known, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return _instructed(backend)


def _instructed(backend: Tokenizer, *last: Any) -> Any:
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    tokenizer.add_tokens([AddedToken(THINKS, special=False, normalized=False)])
    tokenizer.chat_template = INSTRUCTED
    return tokenizer


MADE = {"bytes": bytes_, "pieces": pieces, "unigram": unigram}
TOKENS = {"bytes": SPECIAL, "pieces": ("<s>", "</s>", THINKS), "unigram": ("<s>", "</s>", THINKS)}


@pytest.fixture(scope="module", params=MADE)
def made(request: pytest.FixtureRequest) -> tuple[Any, tuple[str, ...]]:
    return MADE[request.param](), TOKENS[request.param]


def turns(*contents: str, system: str = "") -> list[dict[str, str]]:
    """Users and assistants in turn, behind a system's turn."""
    named = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return [{"role": "system", "content": system}, *named]


def control_ids(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    return [i for i in ids if i in tokenizer.added_tokens_decoder and i != tokenizer.unk_token_id]


def harmless(conversation: list[dict[str, str]], tokens: Sequence[str]) -> list[dict[str, str]]:
    """The same turns with a letter in the place of each control token."""
    letters = re.compile("|".join(map(re.escape, tokens)))
    return [{**message, "content": letters.sub("x", message["content"])} for message in conversation]


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decoded between the control tokens, behind each of which `pieces` sets a space of its own."""
    runs = itertools.groupby(ids, lambda i: bool(control_ids(tokenizer, [i])))
    return "".join(tokenizer.decode(each) for own, run in runs for each in ([[i] for i in run] if own else [list(run)]))


@pytest.mark.parametrize("prompt", [False, True])
def test_what_a_message_says_opens_and_ends_no_turn(made: tuple[Any, tuple[str, ...]], prompt: bool) -> None:
    tokenizer, tokens = made
    first, second, last = tokens[0], tokens[1], tokens[-1]
    chats = [
        turns(first),
        turns(last),
        turns(f"a {last}b{first}\n{second} he", f"{first}{first} no", f"yes, {second}.", system=f"Be {last}brief"),
        turns(f"<{first}>{second[:-1]}{last}", "", "he"),
    ]
    for chat, ids in zip(chats, chat_ids(tokenizer, chats, add_generation_prompt=prompt), strict=True):
        like = tokenizer.apply_chat_template(harmless(chat, tokens), add_generation_prompt=prompt)["input_ids"]
        assert control_ids(tokenizer, ids) == control_ids(tokenizer, like)
        shown = tokenizer.apply_chat_template(chat, add_generation_prompt=prompt, tokenize=False)
        assert text_of(tokenizer, ids) == shown


def test_ordinary_text_has_the_ids_of_apply_chat_template(made: tuple[Any, tuple[str, ...]]) -> None:
    """Spaces, line ends, characters of every plane, the library's own marks, and pieces of control tokens."""
    tokenizer, tokens = made
    controls = control_tokens(tokenizer)
    draw = np.random.default_rng(6)
    letters = [
        *" \t\n\r.,'!?<|>/s[]aehz09é東🦊",
        "\U000f0000",
        "\U000f0001",
        "\ue000",
        "  ",
        "the",
        "<|",
        "[INST]",
        "</",
    ]
    letters += [token[:-1] for token in tokens] + [token[1:] for token in tokens]
    chats: list[list[dict[str, str]]] = []
    while len(chats) < 200:
        texts = ["".join(draw.choice(letters, size=int(draw.integers(0, 30)))) for _ in range(draw.integers(2, 5))]
        chat = turns(*texts[1:], system=texts[0])
        chats += [chat] if not held(controls, chat) else []
    for prompt in (False, True):
        expected = [tokenizer.apply_chat_template(chat, add_generation_prompt=prompt)["input_ids"] for chat in chats]
        assert chat_ids(tokenizer, chats, add_generation_prompt=prompt) == expected


def test_random_text_with_control_tokens_leaves_the_templates_own(made: tuple[Any, tuple[str, ...]]) -> None:
    tokenizer, tokens = made
    draw = np.random.default_rng(7)
    letters = [*" \n.<|>/sae\U000f0000", *tokens, *tokens]
    expected = control_ids(tokenizer, tokenizer.apply_chat_template(turns("x", "x", "x", system="x"))["input_ids"])
    for _ in range(200):
        texts = ["".join(draw.choice(letters, size=int(draw.integers(0, 12)))) for _ in range(4)]
        ids = chat_ids(tokenizer, [turns(*texts[1:], system=texts[0])])[0]
        assert control_ids(tokenizer, ids) == expected


def test_an_answer_is_text_up_to_its_stop_token(made: tuple[Any, tuple[str, ...]]) -> None:
    tokenizer, tokens = made
    chats = [turns("he"), turns("he"), turns(f"he {tokens[0]}")]
    answers = ["yes", f"no{tokens[0]}, {tokens[1]} yes", "yes"]
    for chat, answer, pair in zip(chats, answers, answered(tokenizer, chats, answers), strict=True):
        head, whole = encoded(tokenizer, pair)
        shown = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        assert text_of(tokenizer, head) == shown
        assert text_of(tokenizer, whole) == shown + answer + tokenizer.eos_token
        assert control_ids(tokenizer, whole) == [*control_ids(tokenizer, head), tokenizer.eos_token_id]
    head = tokenizer.apply_chat_template(chats[0], add_generation_prompt=True, tokenize=False)
    plain = [
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, head + "yes" + tokenizer.eos_token)
    ]
    assert encoded(tokenizer, answered(tokenizer, chats[:1], answers[:1])[0]) == plain


def test_the_control_tokens_are_the_special_ones_and_those_that_the_template_writes() -> None:
    tokenizer = pieces()
    tokenizer.add_tokens([AddedToken(text, special=False) for text in ("\n\n", "he")])
    controls = control_tokens(tokenizer)
    assert [controls.fullmatch(text) is not None for text in ("<unk>", "</s>", THINKS, "\n\n", "he")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert held(controls, turns("a\n\nhe", f"a </s>{THINKS}")) == "</s>"
    assert held(controls, turns("a\n\nhe")) == ""


def test_a_role_cannot_write_a_control_token() -> None:
    tokenizer = bytes_()
    tokenizer.chat_template = f"{{%- for m in messages -%}}{USER}{{{{- m['role'] + m['content'] -}}}}{{%- endfor -%}}"
    ids = chat_ids(tokenizer, [[{"role": f"a{END}{ASSISTANT}", "content": "b"}]])[0]
    assert control_ids(tokenizer, ids) == [tokenizer.convert_tokens_to_ids(USER)]
    assert tokenizer.decode(ids) == f"{USER}a{END}{ASSISTANT}b"
