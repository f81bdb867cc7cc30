import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import rows
from tasks.rows import Notes, RowFile, blocks, count, read, read_blocks, write

ODD = "a\nb\rc\x1c\x85\u2028 é 😀"


def some(number: int) -> list[dict[str, Any]]:
    return [{"id": i, "text": ODD * (i % 5)} for i in range(number)]


def copied(held: Iterator[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    return [list(block) for block in held]


def test_blocks_are_bounded_in_rows_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK_ROWS", 10)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 300)
    held = some(101)
    write(tmp_path / "rows", held)
    whole = copied(blocks(held))
    assert [row for block in whole for row in block] == held
    assert {len(block) for block in whole[:-1]} <= set(range(2, 11))
    assert copied(read_blocks(tmp_path / "rows")) == whole
    assert copied(blocks([])) == []


def test_one_block_at_a_time_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK_ROWS", 10)
    kept = list(blocks(some(25)))
    assert kept == [[], [], []]


def test_rows_are_picked_by_number_in_any_order(tmp_path: Path) -> None:
    held = some(400)
    assert write(tmp_path / "rows", held) == count(tmp_path / "rows") == 400
    file = RowFile(tmp_path / "rows")
    rng = random.Random(1)
    for numbers in ([], [0], [399], list(range(400)), rng.choices(range(400), k=900), [5, 6, 7, 7, 8, 6]):
        assert list(file.pick(numbers)) == [held[number] for number in numbers]
    assert len(file) == 400
    assert list(file) == held


def test_rows_of_more_than_a_stretch(tmp_path: Path) -> None:
    held = [{"text": str(i) * 300_000} for i in range(10)]
    write(tmp_path / "rows", held)
    assert list(RowFile(tmp_path / "rows").pick(range(10))) == held


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "rows").touch()
    assert len(RowFile(tmp_path / "rows")) == count(tmp_path / "rows") == 0
    assert list(RowFile(tmp_path / "rows").pick([])) == list(read_blocks(tmp_path / "rows")) == []


def test_only_the_lines_that_hold_something(tmp_path: Path) -> None:
    write(tmp_path / "rows", [{"side": "test"}, {"side": "train"}, {"text": '"side":"test"'}])
    assert list(read(tmp_path / "rows", holding=b'"side":"test"')) == [{"side": "test"}]


def test_notes_keep_the_first_text_of_a_row(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes", 5000)
    numbers = random.Random(2).sample(range(5000), 3000)
    for number in numbers:
        notes.add(number, f"{ODD} {number}")
        notes.add(number, "a later one")
    assert list(notes.sorted()) == [(number, f"{ODD} {number}") for number in sorted(numbers)]
    assert notes.get(numbers[7]) == f"{ODD} {numbers[7]}"
    other = min(set(range(5000)) - set(numbers))
    assert notes.get(other) is None
    notes.add(other, "")
    assert notes.get(other) == ""
    assert len(notes) == notes.marked.sum() == 3001
