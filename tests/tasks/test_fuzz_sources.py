"""Sources, folders, code and data sets of the hub as they should not be: each is an error, or told and left out."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks import ingest, mining, sources
from tasks.cut import Cut
from tasks.data import DataRecipe, plan
from tasks.errors import SourceError
from tasks.readers import data_files, rows
from tasks.suites import Bounds
from tasks.validate import examine
from tests.damage import COUNT, LINE, Record, as_parquet, lines_of, put, records, refused

NAMES_NOTHING = [
    ("path:nowhere", "there is no such file or folder"),
    ("path:../../../../../../nowhere/passwd", "there is no such file or folder"),
    ("path:~nobody-of-this-name/x", "there is no such file or folder"),
    ("path:/dev/zero", "is no regular file"),
    ("path:a\0b", r"a\\x00b: is no path"),
    ("path:\x1b[2J", r"\\x1b\[2J: there is no such"),
    ("path:\u202etxt", r"\\u202etxt: there is no such"),
    (f"path:{'a' * 300}", "there is no such file or folder"),
    (f"path:{'a/' * 3000}", "there is no such file or folder"),
    ("hub:../x", "there is no such folder"),
    ("hub:x/../../etc", "there is no such folder"),
    ("hub:~nobody-of-this-name", "there is no such folder"),
    ("hub:a\0b", r"a\\x00b: is no path"),
    ("hub:\x1b[2J", r"hub:\\x1b\[2J@main: the hub does not answer"),
    ("hub:someone/something@../../main", "network is switched off"),
    (f"hub:{'a' * 300}", "the hub does not answer"),
    ("package:..", "'..' is not installed"),
    ("package:-r,x", "'-r' is not installed"),
]


@pytest.mark.parametrize(("source", "what"), NAMES_NOTHING)
def test_a_source_that_names_nothing_is_an_error(source: str, what: str) -> None:
    recipe = DataRecipe(source=source)
    with pytest.raises(SourceError, match=what) as caught:
        plan(recipe)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "source",
    ["", "path:", "PATH:x", "file:x", "path:a\nb", "path:\udcff", "hub:a b", "hub:a#b c", "package:a b", "package:a;b",
     "package:a,", {"path:a": 0}, {"path:a": -1}, {"path:a": float("nan")}, {"path:a": "much"}, {"path:a\n": 1}, {},
     {"path:a": float("inf")}, {"path:a": 1, "path:b": float("inf")}, {"path:a": True, 3: 1}, ["path:a"], None, 7],
)  # fmt: skip
def test_a_source_or_weight_that_is_none_is_refused(source: Any) -> None:
    with pytest.raises(ValidationError):
        DataRecipe(source=source)


def test_a_source_of_which_nothing_is_left_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        put(tmp_path / name / "a.jsonl", lines_of(records("text"), ".jsonl"))
    (tmp_path / "made").mkdir()
    recipe = DataRecipe(source={f"path:{tmp_path / 'a'}": 1, f"path:{tmp_path / 'b'}": 1e-320})
    assert ingest.ingest(tmp_path / "made", recipe)["left_out_by_the_mixture"] == {"text": COUNT}
    assert any("b: its weight of" in message and "leaves no row of text" in message for message in caplog.messages)


def candidates(source: str) -> list[tuple[str, Record]]:
    return list(sources.read(source, ("en",), Cut(seed=1, limit=0, prompt_words=45, passage_words=20, docstrings=0)))


GOOD = ("plain.jsonl", "dir.jsonl/in.jsonl", "a\nb.jsonl", "\x1b[2J.jsonl", "\u202etxt.jsonl", f"{'l' * 249}.jsonl")
LINKS = {
    "loop.jsonl": "loop.jsonl", "one.jsonl": "two.jsonl", "two.jsonl": "one.jsonl", "gone.jsonl": "nothing",
    "out.jsonl": "../outside.jsonl", "zero.jsonl": "/dev/zero", "up": "..", "loop.py": "loop.py", "out.py": "../x.py",
}  # fmt: skip
SHOWN = {"plain.jsonl", "dir.jsonl/in.jsonl", r"a\nb.jsonl", r"\x1b[2J.jsonl", r"\u202etxt.jsonl", f"{'l' * 249}.jsonl",
         r"caf\udce9.jsonl"}  # fmt: skip


def full_of_oddities(folder: Path) -> Path:
    (folder / "dir.jsonl").mkdir(parents=True)
    for name in (*GOOD, os.fsdecode(b"caf\xe9.jsonl"), "../outside.jsonl", "../x.py"):
        (folder / name).write_bytes(LINE)
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    for name in ("pipe.jsonl", "pipe.py"):
        os.mkfifo(folder / name)
    return folder


def test_a_folder_full_of_oddities_gives_all_that_can_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = full_of_oddities(tmp_path / "own")
    found = candidates(f"path:{folder}")
    assert {row["record"].removesuffix(":1") for _, row in found} == SHOWN
    assert len(found) == len(SHOWN)
    assert all(text.isprintable() for _, row in found for text in (row["id"], row["source"], row["group"]))
    told = " ".join(caplog.messages)
    assert told.isprintable()
    assert all(f"no regular file ({name})" in told for name in ("loop.jsonl", "one.jsonl", "pipe.jsonl", "pipe.py"))
    assert all(f"link out of the folder ({name})" in told for name in ("out.jsonl", "zero.jsonl", "out.py"))
    assert examine(folder, "text", Bounds())["rows"] == len(SHOWN)
    assert json.dumps(sources.facts(f"path:{folder}", ("en",))).isascii()


def test_names_that_look_the_same_are_not_mixed_up(tmp_path: Path) -> None:
    for name in ("a\x1b.jsonl", r"a\x1b.jsonl"):
        (tmp_path / name).write_bytes(LINE)
    with pytest.raises(SourceError, match="two files differ only in characters that do not print"):
        data_files(tmp_path)


def test_thousands_of_files_are_all_read(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number}.jsonl").write_bytes(b'{"text": "%d"}\n' % number)
    assert {row["text"] for _, row in candidates(f"path:{tmp_path}")} == {str(number) for number in range(2000)}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("change", ["grows", "is replaced", "goes"])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, suffix: str, change: str) -> None:
    held = records("text")
    content = as_parquet(held) if suffix == ".parquet" else lines_of(held, suffix.removesuffix(".gz"))
    path = put(tmp_path / f"a{suffix}", content)
    found = rows(path, path.name, "text", words=20)
    next(found)
    if change == "grows":
        with path.open("ab") as file:
            file.write(b"\n")
    else:
        path.unlink()
    if change == "is replaced":
        put(path, content)
    said_so = {"grows": "changed while|is no whole gzip", "is replaced": "changed while", "goes": "cannot be read"}
    with pytest.raises(SourceError, match=rf"{path.name}: ({said_so[change]})"):
        list(found)


def test_a_file_that_is_gone_before_it_is_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone: cannot be read \(No such file"):
        mining.folder_facts({"gone": tmp_path / "gone"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_or_folder_that_must_not_be_read_is_an_error(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", lines_of(records("text"), ".jsonl"))
    path.chmod(0)
    assert "Permission denied" in refused(path, "text")
    (tmp_path / "shut").mkdir(mode=0)
    with pytest.raises(SourceError, match="shut: cannot be read"):
        data_files(tmp_path)


def test_an_empty_file_beside_others_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "a.jsonl", lines_of(records("text"), ".jsonl"))
    put(tmp_path / "b.jsonl", b"")
    assert len(candidates(f"path:{tmp_path}")) == COUNT
    assert "b.jsonl: holds no rows" in caplog.messages


def test_tables_beside_code_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "a.csv", lines_of(records("answers"), ".csv"))
    put(tmp_path / "convert.py", b"x = 1\n")
    assert {row["domain"] for _, row in candidates(f"path:{tmp_path}")} == {"code"}
    assert any("left out as settings of the code beside them: a.csv" in message for message in caplog.messages)


FUNCTION = 'def f(a):\n    """Returns what it is given."""\n    b = a\n    return b\n'


@pytest.mark.parametrize(
    "harm",
    [b"(" * 5000, b"-" * 100_000 + b"1", b"a" + b".a" * 100_000, b"x\0y", b"# coding: rot13\n", b"# coding: nothing\n",
     b"\xff", b"def f(:\n", b"# coding: unicode_escape\nx = '\\ud800'\n", b"#" * (5 << 20)],
    ids=range(10),
)  # fmt: skip
def test_code_that_does_not_parse_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: bytes
) -> None:
    (tmp_path / "good.py").write_text(FUNCTION)
    (tmp_path / "harmed.py").write_bytes(harm)
    found = candidates(f"path:{tmp_path}")
    assert [row["response"] for name, row in found if name == "instructions"] == ["Returns what it is given."]
    told = any("harmed.py" in message and "left out" in message for message in caplog.messages)
    assert told or b"unicode_escape" in harm
    assert all(json.dumps(row, ensure_ascii=False).encode() for _, row in found)


def test_code_in_another_encoding_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"x = 1\n\n# caf\xe9\n")
    with pytest.raises(SourceError, match=r"a\.py, line 3: not UTF-8; convert it"):
        candidates(f"path:{tmp_path}")


def test_form_feeds_do_not_move_the_lines_of_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f"import os\n\f\nNAME = 'a\u2028b'\n\n\n{FUNCTION}")
    (row,) = [row for name, row in candidates(f"path:{tmp_path}") if name == "instructions"]
    assert row["prompt"] == "def f(a):\n    b = a\n    return b"


HUBS: dict[str, tuple[str, bytes, str]] = {
    "cut": ("train.jsonl", b'{"text": "a"}\n{"text": "b', "cannot read on"),
    "lone surrogate": ("train.jsonl", b'{"text": "\\ud800"}\n', "cannot read on"),
    "invalid UTF-8": ("train.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "after row 1: .*cannot read on"),
    "number": ("train.jsonl", b'{"text": "a"}\n{"text": 5}\n', "row 2, field text: is the number 5"),
    "nothing": ("train.jsonl", b"", "cannot read it"),
    "quote missing": ("train.csv", b'text,n\na,b\n"a,b\n', "cannot read on"),
    "fields": ("train.csv", b"text,n\na,b\na,b,c\n", "cannot read on"),
    "cut archive": ("train.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99)[:-9], "cannot read"),
    "Parquet": ("train.parquet", b"PAR1" * 9, "cannot read it"),
    "card": ("README.md", b"---\nlicense: [mit\n---\n", "cannot read it"),
    "other suffix": ("notes.bin", b"a", "cannot read it"),
}


@pytest.mark.parametrize("name", HUBS)
def test_a_damaged_folder_of_the_hub_is_an_error(tmp_path: Path, name: str) -> None:
    file, content, what = HUBS[name]
    (tmp_path / file).write_bytes(content)
    if file == "README.md":
        put(tmp_path / "train.jsonl", LINE)
    with pytest.raises(SourceError, match=what) as caught:
        candidates(f"hub:{tmp_path}")
    assert str(caught.value).isprintable()


def test_files_that_the_hub_passes_over_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train.jsonl", "train.csv", "README.md", "more.jsonl"):
        put(tmp_path / name, {"csv": b"text\nb\n", "jsonl": b'{"text": "a"}\n'}.get(name.split(".")[1], b"# Card\n"))
    assert [row["text"] for _, row in candidates(f"hub:{tmp_path}")] == ["a"]
    assert any(message.endswith("left out by `datasets`: more.jsonl, train.csv") for message in caplog.messages)
