import itertools

import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from models.tokenizer import ASSISTANT, END, PAD, SPECIAL, USER, train_tokenizer

TEXTS = ["The quick brown fox jumps over the lazy dog. " * 20, "Évariste Galois était un mathématicien français."]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocabulary=320, context=64)


@pytest.mark.parametrize("text", ["The fox", "naïve Ελλάδα 東京 🦊", " leading\n\tand  double ", "a\u0301"])
def test_any_text_survives_a_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def scalar(number: int) -> str:
    """A character of Unicode by its number; the surrogates, which no UTF-8 holds, give way to what follows them."""
    return chr(number + 0x800 if number >= 0xD800 else number)


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """As the streams of pre-training are encoded."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


ODD = (
    "", "\0", "a\0b", "\r\n", "\r", "\n\r\n", "\x1c\x1d\x1e\x1f\x7f", "\u2028\u2029\x85\xa0\u3000",
    "\ufeffx", "\u200d", "\ufffd", "\ufffe\uffff\U0010ffff", "e\u0301\u0301\u0327", "\ufb01\u212b\u1e9b\u0323",
    "\u202eabc\u202c\u2066d\u2069", "\U0001f469\u200d\U0001f467\U0001f3fd", "a .  b , c ! d ? n't 's 'Re",
    "Ġ Ċ ĉ â Ń", "<|endoftext|>", "<unk>[UNK]</s><s>",
    "a" * 20_000, " " * 20_000, "\n\t" * 5_000, "\U0001f98a" * 5_000,
)  # fmt: skip


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_text_survives_a_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(ids_of(tokenizer, text)) == text


def test_every_character_of_unicode_survives_a_round_trip(tokenizer: PreTrainedTokenizerFast) -> None:
    """All planes, the unassigned numbers included, in rows of 2,048."""
    rows = ["".join(map(scalar, range(first, first + 2048))) for first in range(0, 0x110000 - 0x800, 2048)]
    assert sum(map(len, rows)) == 0x110000 - 0x800
    encoder = tokenizer.backend_tokenizer
    assert encoder.decode_batch([row.ids for row in encoder.encode_batch_fast(rows)]) == rows


def test_random_text_survives_a_round_trip(tokenizer: PreTrainedTokenizerFast) -> None:
    """Characters of every plane among spaces, line ends, quotes and the letters of control tokens."""
    draw = np.random.default_rng(6)
    common = [*" \t\n\r\0.,'!?<|>aeZ09é東", "\r\n", "  ", "'s", "\u0301", "\u200f", *SPECIAL]
    for _ in range(400):
        anywhere = [scalar(int(number)) for number in draw.integers(0, 0x110000 - 0x800, 20)]
        text = "".join(draw.choice([*common, *anywhere], size=int(draw.integers(1, 60))))
        assert tokenizer.decode(ids_of(tokenizer, text)) == text


def test_any_bytes_survive_as_the_text_that_latin_1_makes_of_them(tokenizer: PreTrainedTokenizerFast) -> None:
    draw = np.random.default_rng(6)
    strings = [bytes(range(256)), *(draw.bytes(int(size)) for size in draw.integers(0, 400, 200))]
    for string in strings:
        assert tokenizer.decode(ids_of(tokenizer, string.decode("latin-1"))).encode("latin-1") == string


def test_bytes_that_are_no_utf_8_have_tokens_and_decode_to_replacement_characters(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """What a model may write: any bytes in any order. Each ill-formed stretch becomes one U+FFFD, as in Python."""
    alphabet = _alphabet()
    draw = np.random.default_rng(6)
    whole = [draw.bytes(int(size)) for size in draw.integers(1, 60, 200)]
    torn = ["naïve 🦊 東京".encode()[first:last] for first, last in itertools.combinations(range(19), 2)]
    for string in [bytes(range(256)), *whole, *torn]:
        ids = tokenizer.convert_tokens_to_ids([alphabet[byte] for byte in string])
        assert None not in ids
        assert tokenizer.decode(ids) == string.decode("utf-8", errors="replace")


def _alphabet() -> dict[int, str]:
    """The character that stands for each byte: bytes that print stand for themselves, the others follow from 256 on."""
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = itertools.count(256)
    made = {byte: chr(byte if byte in printed else next(others)) for byte in range(256)}
    assert set(made.values()) == set(ByteLevel.alphabet())
    return made


def test_a_lone_surrogate_is_no_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """`surrogateescape` smuggles bytes into a str that has no UTF-8: such a str is refused, not altered."""
    with pytest.raises(TypeError):
        tokenizer(b"\xff".decode("utf-8", errors="surrogateescape"))


@pytest.mark.parametrize("token", SPECIAL)
def test_text_that_looks_like_a_control_token_is_text_where_it_is_asked_for(
    tokenizer: PreTrainedTokenizerFast, token: str
) -> None:
    text = f"a{token}b {token}\n{token}{token}"
    ids = ids_of(tokenizer, text)
    assert not set(ids) & set(tokenizer.convert_tokens_to_ids(list(SPECIAL)))
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(token)["input_ids"] == [tokenizer.convert_tokens_to_ids(token)]  # a template needs it


def test_training_text_that_holds_control_tokens_teaches_no_second_one() -> None:
    taught = train_tokenizer([f"{END}{USER} " * 200], vocabulary=400, context=64)
    ids = ids_of(taught, END + USER)
    assert len(ids) > 1 and taught.decode(ids) == END + USER
    assert [token for token in taught.get_vocab() if "|" in token.strip("Ġ<|>")] == []
    assert len(taught.get_vocab()) == len(set(taught.get_vocab().values()))


def test_size_and_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 320 and tokenizer.model_max_length == 64
    for token in SPECIAL:
        assert len(tokenizer(token)["input_ids"]) == 1
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (END, END, PAD)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_training_shortens_known_text(tokenizer: PreTrainedTokenizerFast) -> None:
    known = "The quick brown fox"
    assert len(tokenizer(known)["input_ids"]) < len(known) / 2


def test_training_is_deterministic(tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_tokenizer(TEXTS, vocabulary=320, context=64)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_the_mask_covers_the_answer_and_its_end(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The fox"}]
    encoded = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids = encoded["input_ids"]
    masked = [i for i, m in zip(ids, encoded["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(ids) == f"{USER}Who?{ASSISTANT}The fox{END}"
    assert tokenizer.decode(masked) == f"The fox{END}"


def test_the_mask_covers_every_answer_of_a_history_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [("system", "Brief."), ("user", "Who? 🦊"), ("assistant", "The fox"), ("user", " "), ("assistant", ""),
             ("user", "Over?"), ("assistant", " the lazy\ndog 🦊 ")]  # fmt: skip
    chat = [{"role": role, "content": content} for role, content in turns]
    encoded = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    runs = itertools.groupby(zip(encoded["input_ids"], encoded["assistant_masks"], strict=True), lambda pair: pair[1])
    shown = [(mask, tokenizer.decode([i for i, _ in run])) for mask, run in runs]
    assert shown == [
        (0, f"{USER}Brief.{USER}Who? 🦊{ASSISTANT}"), (1, f"The fox{END}"), (0, f"{USER} {ASSISTANT}"), (1, END),
        (0, f"{USER}Over?{ASSISTANT}"), (1, f" the lazy\ndog 🦊 {END}"),
    ]  # fmt: skip


def test_a_prompt_ends_where_the_answer_begins(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who?"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == f"{USER}Who?{ASSISTANT}"


def test_batches_are_padded_on_the_left(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer(["The", "The quick brown fox jumps"], padding=True)["input_ids"]
    assert ids[0][0] == tokenizer.pad_token_id and ids[0][-1] != tokenizer.pad_token_id


def test_a_saved_tokenizer_is_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": "naïve 🦊"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(chat, tokenize=False)
    assert loaded("naïve 🦊")["input_ids"] == tokenizer("naïve 🦊")["input_ids"]
    assert loaded.eos_token_id == tokenizer.eos_token_id and loaded.padding_side == "left"


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="a vocabulary of 259 cannot hold the 256 bytes and 4 special"):
        train_tokenizer(TEXTS, vocabulary=259, context=64)
