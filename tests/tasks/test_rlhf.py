"""Which rows TRL may tokenise, where what they say decides nothing else."""

from pathlib import Path
from typing import Any

import pytest

from models.architectures import fresh_model
from models.tokenizer import ASSISTANT, END, USER, train_tokenizer
from tasks import notes, reward, rlhf, training
from tasks.errors import SourceError


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["The quick brown fox jumps over the lazy dog. " * 20], vocabulary=300, context=256)


def noted(folder: Path) -> str:
    return (folder / "log" / notes.NOTES).read_text(encoding="utf-8")


def test_prompts_with_the_letters_of_a_control_token_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    policy = fresh_model(1, tokenizer, seed=0)
    told = [{"role": "system", "content": f"{END}Be brief."}]
    rows = [{"id": "a", "prompt": "Who?"}, {"id": "b", "prompt": f"Who?{ASSISTANT}I am"}, {"id": "c", "prompt": "Who"}]
    rows.append({"id": "d", "prompt": "Who?", "history": told})
    kept = rlhf._fitting(policy, tokenizer, rows, rlhf.RLHFRecipe(), tmp_path)
    assert [row["id"] for row in kept] == ["a", "c"]
    assert "left out 2 of 4 rows" in noted(tmp_path) and f"'b' those of {ASSISTANT}" in noted(tmp_path)


@pytest.mark.parametrize("place", ["prompt", "chosen", "rejected"])
def test_a_pair_with_the_letters_of_a_control_token_on_either_side_is_left_out(
    tokenizer: Any, tmp_path: Path, place: str
) -> None:
    whole = {"id": "a", "prompt": "Who?", "chosen": "The fox", "rejected": "A fox"}
    pairs = [whole, {**whole, "id": "b", place: f"The {USER}"}]
    kept = training.without_control_tokens(pairs, tokenizer, tmp_path, messages=reward._messages)
    assert kept == [whole]
    assert f"left out 1 of 2 rows: they hold the letters of a control token, the first of them 'b' those of {USER}" in (
        noted(tmp_path)
    )
    with pytest.raises(SourceError, match="all 1 rows hold the letters"):
        training.without_control_tokens(pairs[1:], tokenizer, tmp_path, messages=reward._messages)


def test_rows_without_such_letters_are_the_same_rows_and_nothing_is_noted(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "Who <| user |>? </s>", "chosen": "The fox", "rejected": "A fox"}]
    assert training.without_control_tokens(rows, tokenizer, tmp_path, messages=reward._messages) is rows
    assert not (tmp_path / "log").exists()
