"""Text in the tokens of a model that there is: as that model saw its own, whatever its tokenizer brings along."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from models.packing import read_streams
from tasks.tokenizer import _encode_again

TEXTS = ["a b a", "b a b a b"]


def encoded(tmp_path: Path, vocabulary: int, *, begin: bool = False) -> tuple[Any, dict[str, Any]]:
    """Words as tokens: `a` is 3, `b` the last one of the vocabulary."""
    words = {
        "<s>": 0,
        "</s>": 1,
        "<pad>": 2,
        "a": 3,
        **{f"w{i}": i for i in range(4, vocabulary - 1)},
        "b": vocabulary - 1,
    }
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_truncation(2)
    made.enable_padding(length=8)
    if begin:
        made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    kept = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    kept.save_pretrained(tmp_path / "model")
    (tmp_path / "text").mkdir()
    for split in ("train", "validation", "test"):
        rows = [json.dumps({"domain": "d", "text": text}) + "\n" for text in TEXTS]
        (tmp_path / "text" / f"{split}.jsonl").write_text("".join(rows))
    summary = _encode_again(tmp_path / "text", tmp_path / "out", 10_000, tmp_path / "model")
    return read_streams(tmp_path / "out" / "tokens" / "train")["d"], summary


def test_whole_documents_are_encoded_though_the_tokenizer_was_saved_with_a_length(tmp_path: Path) -> None:
    stream, summary = encoded(tmp_path, 10)
    assert stream.tolist() == [3, 9, 3, 1, 9, 3, 9, 3, 9, 1]
    assert summary["characters_per_token"]["d"] == 14 / 8


def test_a_document_begins_as_the_tokenizer_begins_a_text(tmp_path: Path) -> None:
    stream, summary = encoded(tmp_path, 10, begin=True)
    assert stream.tolist() == [0, 3, 9, 3, 1, 0, 9, 3, 9, 3, 9, 1]
    assert summary["characters_per_token"]["d"] == 14 / 8


def test_a_large_vocabulary_is_written_in_32_bits(tmp_path: Path) -> None:
    stream, summary = encoded(tmp_path, 70_000)
    assert stream.dtype == "uint32" and stream.max() == 69_999
    assert (tmp_path / "out" / "tokens" / "train" / "d.bin32").stat().st_size == 4 * summary["tokens"]["train"]["d"]
