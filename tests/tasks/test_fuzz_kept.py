"""What is already there is kept: quarantine files, keys of sources that change, paths that are none."""

from pathlib import Path
from typing import Any

import pytest

from flows import cli
from tasks import decontamination, ingest, steps
from tasks.data import DataRecipe, ingest_rows, plan
from tasks.errors import SourceError

LINE = b'{"text": "a"}\n'


@pytest.mark.parametrize("target", ["a.jsonl", "link.jsonl", ".", "no/such/folder"])
def test_the_broken_rows_never_go_into_what_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE)
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    asked_for = ["validate", str(tmp_path / "a.jsonl"), "--kind", "text", "--quarantine", str(tmp_path / target)]
    assert cli.main(asked_for) == 2
    assert "name a" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "a.jsonl").read_bytes() == LINE


def test_a_failed_validation_keeps_the_broken_rows_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE + b'{"text": ')
    (tmp_path / "left_out").write_bytes(b"before\n")
    asked_for = ["validate", str(tmp_path / "a.jsonl"), "--kind", "text", "--quarantine", str(tmp_path / "left_out")]
    assert cli.main(asked_for) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name == "left_out"} == {
        "left_out": b"before\n"
    }


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "a\0b", "a" * 5000])
def test_a_path_that_is_none_is_wrong_use(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", path, "--kind", "text"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_texts_of_a_benchmark_are_found_however_deep() -> None:
    nested: Any = "b"
    for _ in range(5000):
        nested = [nested]
    assert list(decontamination._strings({"a": nested, "c": ["d"]})) == ["b", "d"]


def test_a_source_that_grows_after_its_key_was_made_is_an_error(
    tmp_path: Path, shared_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "a.jsonl"
    file.write_bytes(LINE)
    recipe, whole = DataRecipe(source=f"path:{tmp_path / 'own'}"), ingest.ingest

    def meanwhile(folder: Path, recipe: Any) -> dict[str, Any]:
        file.write_bytes(LINE * 2)
        return whole(folder, recipe)

    monkeypatch.setattr(ingest, "ingest", meanwhile)
    before = plan(recipe)[0]
    with pytest.raises(SourceError, match="own: changed while it was read"):
        ingest_rows.fn(recipe)
    assert not steps.status(before).reused
