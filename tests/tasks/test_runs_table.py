"""Files of runs: encodings, standard input, and what cannot be read."""

import io
import os
import sys
from pathlib import Path

import pytest

from models.runs import Reading
from tasks import runs_table
from tasks.errors import UsageError

PLAIN = "N,D,loss\n1e8,2e9,3.1\n2e8,4e9,2.9\n"


def refused(path: Path | str) -> str:
    with pytest.raises(UsageError) as caught:
        runs_table.read(str(path), Reading())
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_encodings_of_spreadsheets(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "runs.csv").write_bytes(("run," + PLAIN.replace("\n", "\né,", 2).rstrip(",")).encode(encoding))
    found = runs_table.read(str(tmp_path / "runs.csv"), Reading())
    assert found.L.tolist() == [3.1, 2.9]
    assert found.run == ("é", "é")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PLAIN.encode())))
    assert len(runs_table.read("-", Reading())) == 2


def test_json_lines(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text('{"N":1e8,"D":2e9,"loss":3.1}\n{"N":2e8,"D":4e9,"loss":2.9}\n')
    assert runs_table.read(str(tmp_path / "runs.jsonl"), Reading()).L.tolist() == [3.1, 2.9]


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not exist" in refused(tmp_path / "none.csv")
    assert "is a folder" in refused(tmp_path)
    assert "cannot be read" in refused("a\0b")
    (tmp_path / "latin.csv").write_bytes("N,D,loss,é\n".encode("latin-1"))
    assert "0xe9 at 9" in refused(tmp_path / "latin.csv") and "iconv" in refused(tmp_path / "latin.csv")
    (tmp_path / "few.csv").write_text("N,loss\n1e8,3\n")
    assert refused(tmp_path / "few.csv").startswith(f"{tmp_path / 'few.csv'}: no column holds D")
    monkeypatch.setattr(runs_table, "MOST_BYTES", 10)
    assert "more than" in refused(tmp_path / "few.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(PLAIN)
    (tmp_path / "runs.csv").chmod(0)
    assert "chmod" in refused(tmp_path / "runs.csv")
