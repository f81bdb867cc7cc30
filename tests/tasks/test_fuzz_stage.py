"""The data stage with damaged files: it stops and leaves all as it was, or accounts for every row."""

import gzip
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tasks import steps
from tasks.data import DataRecipe, build_dataset, ingest_rows, plan, validate_rows
from tasks.errors import DataValidationError, SourceError
from tests.damage import (
    COUNT,
    LINE,
    Lines,
    as_parquet,
    every,
    lines_of,
    put,
    records,
    refused,
)


@pytest.fixture
def _tracked(shared_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)


def build(recipe: DataRecipe) -> Any:
    return build_dataset.fn(validate_rows.fn(ingest_rows.fn(recipe), recipe), recipe)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("_tracked")
@pytest.mark.parametrize(
    ("of", "harm", "error"),
    [
        ("text", lambda lines: [*lines[:-1], lines[-1][:20]], SourceError),
        ("answers", lambda lines: [*lines, b'{"prompt": "\\ud800", "response": "b"}'], SourceError),
        ("labels", lambda lines: [*lines, b'{"prompt": "a", "response": "b", "label": "../../x"}\n'], SourceError),
        ("answers", lambda lines: lines_of(every(response="")(records("answers"), 0), ".jsonl"), DataValidationError),
        ("pairs", lambda lines: lines_of(every(chosen=None)(records("pairs"), 0), ".jsonl"), DataValidationError),
        ("text", lambda lines: [], SourceError),
    ],
    ids=["cut", "surrogate", "label", "answers empty", "chosen null", "nothing"],
)
def test_a_failed_stage_leaves_all_as_it_was_and_a_mended_file_goes_through(
    tmp_path: Path, of: str, harm: Callable[[Lines], Lines], error: type[Exception]
) -> None:
    held, folder, project = lines_of(records(of), ".jsonl"), tmp_path / "own", tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "data" / "kept.txt").write_text("as it was")
    folder.mkdir()
    put(folder / "a.jsonl", harm(held))
    recipe = DataRecipe(source=f"path:{folder}")
    with pytest.raises(error) as caught:
        build(recipe)
    assert "a.jsonl" in str(caught.value) or "own: no function" in str(caught.value)
    failed = 0 if error is SourceError else 1
    assert [steps.status(step).reused for step in plan(recipe)] == [number < failed for number in range(3)]
    assert not [step.folder for step in plan(recipe)[failed:] if step.folder.exists()]
    assert tree(project) == {"data/kept.txt": b"as it was"}
    assert {path.name for path in tmp_path.iterdir()} <= {"own", "project", "home"}
    put(folder / "a.jsonl", held)
    assert build(recipe).summary["quarantined"] == {}


@pytest.mark.usefixtures("_tracked")
def test_no_row_goes_without_a_reason(tmp_path: Path) -> None:
    """Five kinds of rows, each with damaged ones, and names that would lead out of any folder."""
    harms = {"text": {"text": "\x1b"}, "answers": {"response": None}, "pairs": {"chosen": ""}, "labels": {"prompt": ""}}
    way_out = {"id": "../../../x", "kind": "..", "domain": "../..", "origin": "~", "licence": "/etc/passwd"}
    (tmp_path / "own").mkdir()
    for of, harm in harms.items():
        held = [{**record, **way_out, "group": f"../../{number}"} for number, record in enumerate(records(of))]
        held[3] = {**held[3], **harm}
        put(tmp_path / "own" / f"{of}.jsonl.gz", lines_of(held, ".jsonl"))
    recipe = DataRecipe(source=f"path:{tmp_path / 'own'}", tolerated=0.1)
    made = build(recipe)
    lost = Counter(json.loads(line)["file"] for line in (made.path / "quarantine.jsonl").read_bytes().splitlines())
    kept = Counter({path.parent.name: path.read_bytes().count(b"\n") for path in made.path.glob("*/train.jsonl")})
    for path in (*made.path.glob("*/validation.jsonl"), *made.path.glob("*/test.jsonl")):
        kept[path.parent.name] += path.read_bytes().count(b"\n")
    read_rows = ingest_rows.fn(recipe).summary["rows"]
    assert read_rows == {"text": COUNT, "instructions": COUNT, "preferences": COUNT, "labels": COUNT}
    assert [lost[name] for name in ("text", "instructions", "preferences")] == [1, 1, 1]
    paired = kept["preferences"] - (COUNT - 1)
    assert (kept["text"], kept["instructions"]) == (COUNT - 1, COUNT - 1)
    assert lost["labels"] + 2 * paired == COUNT
    assert {path.name for path in tmp_path.iterdir()} == {"own", "home"}


GIGABYTE, MOST = 1 << 30, 100 << 20
STARTS = {"a.jsonl": LINE + b'{"text": "', "a.csv": b"text\n", "a.txt": b"A text.\n", "a.json": b'[\n{"text": "'}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", STARTS)
def test_a_line_of_a_gigabyte_is_refused_in_little_memory(tmp_path: Path, name: str, packed: bool) -> None:
    path = tmp_path / (f"{name}.gz" if packed else name)
    with path.open("wb") as file:
        file.write(gzip.compress(STARTS[name]) if packed else STARTS[name])
        if packed:
            file.writelines([gzip.compress(b"a" * (1 << 24), 1)] * (GIGABYTE >> 24))
        else:
            file.truncate(GIGABYTE)  # with NUL bytes, which take no room on the disk
    tracemalloc.start()
    message = refused(path, "text")
    assert f"{path.name}, line 2: a line or record is longer than 16 MiB" in message
    assert tracemalloc.get_traced_memory()[1] < MOST
    tracemalloc.stop()


def test_records_of_parquet_have_the_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.records.LIMIT", 1 << 12)
    held = [{"text": "".join(Random(number).choices("abcdefgh", k=1 << 15))} for number in range(3)]
    assert "a line or record is longer" in refused(put(tmp_path / "a.parquet", as_parquet(held)), "text")
