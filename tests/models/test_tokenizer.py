import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from models.tokenizer import ASSISTANT, END, PAD, SPECIAL, USER, train_tokenizer

TEXTS = ["The quick brown fox jumps over the lazy dog. " * 20, "Évariste Galois était un mathématicien français."]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocabulary=320, context=64)


@pytest.mark.parametrize("text", ["The fox", "naïve Ελλάδα 東京 🦊", " leading\n\tand  double ", "a\u0301"])
def test_any_text_survives_a_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


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
