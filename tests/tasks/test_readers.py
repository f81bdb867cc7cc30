import csv
import gzip
import json
import logging
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from models import prose
from tasks.errors import SourceError
from tasks.readers import data_files, rows
from tasks.records import SUFFIXES, is_prose, records
from tasks.settings import ROOT

SHARED = ROOT.parent / "shared" / "data"
ROWS = [{"prompt": f"q{number}", "response": 'says "a", {b} [c]\n\\'} for number in range(3)]
LINE = '{"text": "a"}\n'
LIMIT = 1 << 16
BIG = "a" * (LIMIT + 1)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def as_lines(path: Path) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in ROWS))


def as_array(path: Path, indent: int | None = None) -> Path:
    return write(path, json.dumps(ROWS, indent=indent))


def as_table(path: Path) -> Path:
    delimiter = "\t" if ".tsv" in path.suffixes else ","
    with (path.parent / "table").open("w", newline="") as file:
        table = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
        table.writeheader()
        table.writerows(ROWS)
    return write(path, (path.parent / "table").read_bytes())


def as_parquet(path: Path) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(ROWS), path)
    return path


WRITERS: list[tuple[Callable[[Path], Path], str, list[int]]] = [
    (as_lines, ".jsonl", [1, 2, 3]),
    (as_lines, ".ndjson", [1, 2, 3]),
    (as_lines, ".json", [1, 2, 3]),
    (as_array, ".json", [1, 1, 1]),
    (partial(as_array, indent=1), ".json", [2, 6, 10]),
    (as_table, ".csv", [2, 4, 6]),
    (as_table, ".tsv", [2, 4, 6]),
]


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(("writer", "suffix", "lines"), WRITERS)
def test_the_same_rows_from_every_kind_of_file(
    tmp_path: Path, writer: Callable[[Path], Path], suffix: str, lines: list[int], packed: str
) -> None:
    path = writer(tmp_path / f"a{suffix}{packed}")
    expected = [{**row, "line": line, "file": "a"} for row, line in zip(ROWS, lines, strict=True)]
    assert list(rows(path, "a")) == expected
    assert [record for _, record in records(path, block=7)] == ROWS


def test_the_same_rows_from_parquet(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "a.parquet")
    assert list(rows(path, "a")) == [{**row, "line": number, "file": "a"} for number, row in enumerate(ROWS, start=1)]


def test_every_suffix_is_tried() -> None:
    tried = {f"{suffix}{packed}" for _, suffix, _ in WRITERS for packed in ("", ".gz")}
    assert tried | {".parquet", ".txt", ".txt.gz", ".md", ".md.gz"} == set(SUFFIXES)
    assert [name for name in ("a.txt", "b.MD.gz", "c.json", "txt") if is_prose(name)] == ["a.txt", "b.MD.gz"]


def test_nested_columns_of_parquet_are_a_conversation(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    table = pa.Table.from_pylist([{"messages": messages, "score": 1.5}, {"messages": [{"role": "user"}], "score": 2.5}])
    parquet.write_table(table, tmp_path / "a.parquet")
    found = rows(tmp_path / "a.parquet", "a.parquet")
    assert next(found) == {"prompt": "q", "response": "a", "line": 1, "file": "a.parquet"}
    with pytest.raises(SourceError, match=r"^a\.parquet, row 2, field messages: holds no assistant turn"):
        next(found)


def test_rows_of_one_record_are_numbered(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant") * 2]
    path = write(tmp_path / "a.jsonl", "\n" + json.dumps({"messages": turns}) + "\n")
    assert [(row["line"], row["part"]) for row in rows(path, "a")] == [(2, 1), (2, 2)]


@pytest.mark.parametrize("suffix", [".txt", ".md.gz"])
@pytest.mark.parametrize("block", [2, 60, 1 << 20])
def test_running_text_is_cut_as_a_whole_one_would_be(tmp_path: Path, suffix: str, block: int) -> None:
    paragraphs = [f"Paragraph {i} has a few\nwords. " * (1 + i % 7) for i in range(40)]
    text = "\n\n".join(paragraphs)
    path = write(tmp_path / f"a{suffix}", text.replace("\n", "\r\n"))
    found = list(records(path, block=block, words=30))
    if block > 2:  # a paragraph of more than four blocks is cut
        assert [record["text"] for _, record in found] == list(prose.passages(text, words=30))
    assert " ".join(record["text"] for _, record in found).split() == text.split()
    lines = text.split("\n")
    assert found[0][0] == 1
    assert all(record["text"].split()[0] in lines[number - 1].split() for number, record in found)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbf" + LINE.encode(), ["a"]),
        (LINE.replace("\n", "\r\n") * 2, ["a", "a"]),
        (f"\n{LINE}  \n\n{LINE}".rstrip(), ["a", "a"]),
        (f'{{"text": "a", "n": 1{"0" * 5000}}}', ["a"]),
        ('{"text": null}', [None]),
        ('{"text": "a", "n": 1, "n": 2, "m": {"text": "b", "text": "c"}}', ["a"]),
        ('{"text": "\\"text\\": x, \\\\", "m": ["text"]}', ['"text": x, \\']),
        ("", []),
    ],
)
def test_harmless_oddities_are_read(tmp_path: Path, content: str | bytes, text: list[str | None]) -> None:
    assert [row["text"] for row in rows(write(tmp_path / "a.jsonl", content), "a")] == text


NOT_READ: list[tuple[str, str | bytes, str]] = [
    ("a.jsonl", LINE + '{"text": NaN}', r"line 2: not JSON .*'NaN\}'\); write null"),
    ("a.jsonl", '{"n": -Infinity}', r"line 1: not JSON .*write null"),
    ("a.jsonl", '{"n": 1e999}', r"line 1: not JSON \(Out of range"),
    ("a.jsonl", f'{{"n": 1{"0" * 400}, "text": "\\ud800"}}', r"line 1: not JSON \('utf-8' codec"),
    ("a.jsonl", LINE + '{"text": "\\ud800"}', r"line 2: not JSON \(no low surrogate"),
    ("a.jsonl", LINE + '{"text": "a', r"line 2: not JSON .*ends too early"),
    ("a.jsonl", '{"text": "a\0"}', r"line 1: not JSON \(unexpected control character"),
    ("a.jsonl", '{"text": "\\u0000"}', r"line 1, field text: holds a NUL"),
    ("a.jsonl", '{"text": ' + "[" * 5000, r"line 1: not JSON"),
    ("a.jsonl", LINE.encode() + b'{"text": "\xe9"}', r"line 2: byte 11 of it, b'\\xe9', is not UTF-8; .* iconv"),
    ("a.jsonl", LINE.encode("utf-16"), r"is in UTF-16; convert it, e\.g\. iconv -f UTF-16 -t UTF-8 a\.jsonl"),
    ("a.jsonl", gzip.compress(LINE.encode()), r"is compressed with gzip; let \.gz follow the name"),
    ("a.jsonl", LINE + "[1, 2]", r"line 2: is \[1, 2\]; a JSON object"),
    ("a.jsonl", LINE + '{"text": "a", "text": "b"}', r"line 2: has the key text twice"),
    ("a.txt", "a\0", r"line 1: holds a NUL"),
    ("a.json", '[{"text": "a"},\n{"text": "b"}', r"line 2: the file ends within its array"),
    ("a.json", '[{"text": "a"},\n{"text": "b', r"line 2: not JSON .*ends too early"),
    ("a.json", '[{"text": "a"},\n3]', r"line 2: has 3 where a JSON object is needed"),
    ("a.json", '[{"text": "a"},\n]', r"line 2: has \] where a JSON object is needed"),
    ("a.json", '[{"text": "a"} {"text": "b"}]', r"line 1: has \{ where a comma is needed"),
    ("a.json", '[{"text": "a"}]\n{"text": "b"}', r"line 2: has \{ where the end is needed"),
    ("a.json", "[[1]]", r"line 1: is \[1\]; a JSON object"),
    ("a.csv", "", r"line 1: has nothing; it must name the columns"),
    ("a.csv", "text,text\na,b\n", r"line 1: has text, text; it must name the columns, each once"),
    ("a.csv", 'text,n\n"a\nb",1\na,b,c\n', r"line 4: has 3 fields, the first line 2"),
    ("a.csv", 'text,n\na,1\n"b,2\n', r"line 3: unexpected end of data"),
    ("a.csv", 'text,n\n"a"b,1\n', r"line 2: .* expected after"),
    ("a.csv", "A passage.,3\nAnother.,4\n", r"line 2: the record has the keys A passage\., 3, .*name the columns\)"),
    ("a.parquet", b"PAR1" * 9, r"is no whole Parquet file"),
    ("a.doc", "a", r"is none of \.jsonl, .*; convert it"),
]


@pytest.mark.parametrize(("name", "content", "problem"), NOT_READ, ids=[problem[:40] for *_, problem in NOT_READ])
def test_what_is_no_valid_file_is_refused(tmp_path: Path, name: str, content: str | bytes, problem: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(SourceError, match=rf"a\.\w+(\.gz)?(, |: ){problem}"):
        list(rows(path, name))


def test_a_line_above_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", LINE + "a" * (64 << 20))
    tracemalloc.start()
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz, line 2: a line or record is longer than 16 MiB; split it"):
        list(rows(path, "a"))
    assert tracemalloc.get_traced_memory()[1] < 3 * (16 << 20)
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", f"a\n{BIG}", 2),
        ("a.csv", f"text\n{BIG}", 2),
        ("a.json", f'[\n{{"text": "{BIG}"}}]', 2),
        ("a.json", f'{{"text":\n"{BIG}', 1),
        ("a.json", f'[\n{{"n": [{"[0]," * LIMIT}[]]}}]', 2),
    ],
    ids=range(5),
)
def test_every_kind_of_file_has_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, line: int
) -> None:
    monkeypatch.setattr("tasks.records.LIMIT", LIMIT)
    with pytest.raises(SourceError, match=rf"{name}, line {line}: a line or record is longer"):
        list(records(write(tmp_path / name, content), block=1 << 12))


@pytest.mark.parametrize(
    "harm",
    [lambda b: b[:-20], lambda b: b[:-8] + bytes(8), lambda b: b"no" + b, lambda b: b + b"x", lambda b: b""],
)
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(harm(gzip.compress("".join(json.dumps({"text": str(i)}) + "\n" for i in range(999)).encode())))
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz: is no whole gzip file \(.+\); copy or pack it again"):
        list(rows(path, "a"))


@pytest.mark.parametrize(
    ("later", "field", "problem"),
    [
        ('{"instruction": "q", "output": "a"}', "prompt", "in the format alpaca, the file began as prompt/response"),
        ('{"prompt": "q"}', "response", "is missing: the record has prompt, the file began as prompt/response"),
        ('{"prompt": "q", "respones": "a"}', "response", "is missing"),
        ('{"prompt": "q", "response": "a", "label": true}', "label", "is new: .* in the format prompt/response/label"),
        ('{"prompt": "q", "response": 5}', "response", "is the number 5; a text is needed"),
    ],
)
def test_the_first_record_decides_the_format(tmp_path: Path, later: str, field: str, problem: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"prompt": "q", "response": "a", "id": 1}}\n\n{later}\n')
    found = rows(path, "sub/a.jsonl")
    assert next(found)["response"] == "a"
    with pytest.raises(SourceError, match=rf"^sub/a\.jsonl, line 3, field {field}: .*{problem}"):
        next(found)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    count, line = 24_000, json.dumps({"text": "word " * 20})
    contents = {
        "a.jsonl": f"{line}\n" * count,
        "a.json": f"[{','.join([line] * count)}]",
        "a.csv": "text\n" + f"{'word ' * 20}\n" * count,
        "a.txt": f"{'word ' * 20}\n\n" * count,
    }
    for name, content in contents.items():
        path = write(tmp_path / name, content)
        tracemalloc.start()
        assert sum(1 for _ in records(path, block=1 << 13, words=20)) == count
        # Reading takes 0.1 MB; the rest is for what other threads of this process allocate meanwhile.
        assert tracemalloc.get_traced_memory()[1] < 1_000_000 < path.stat().st_size / 2
        tracemalloc.stop()


def test_a_folder_gives_its_files_in_order_and_says_what_it_leaves_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = write(tmp_path / "outside.jsonl", LINE)
    folder = tmp_path / "folder"
    for name in ("b.jsonl", "a/z.CSV", "a.txt.gz", "README.md", "LICENSE.txt", "readme_first.jsonl"):
        write(folder / name, LINE)
    for name in ("x.py", "y.py", "state.json", ".hidden.jsonl", ".git/c.jsonl", "tests/d.jsonl"):
        write(folder / name, LINE)
    (folder / "out.jsonl").symlink_to(outside)
    (folder / "in.jsonl").symlink_to(folder / "b.jsonl")
    (folder / "gone.jsonl").symlink_to(folder / "nothing.jsonl")
    with caplog.at_level(logging.WARNING, logger="evergreen.ingest"):
        found = data_files(folder)
    assert list(found) == ["a.txt.gz", "a/z.CSV", "b.jsonl", "in.jsonl", "readme_first.jsonl"]
    assert found["a/z.CSV"] == folder / "a/z.CSV"
    (message,) = caplog.messages
    assert all(part in message for part in ("2 .py", "folder tests", "link out of the folder (out.jsonl)", "1 .json"))
    assert ".hidden" not in message and ".git" not in message


def test_readme_is_data_where_there_is_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "README.md", "A text.")
    assert data_files(tmp_path) == {"README.md": path} == data_files(path)


def test_a_path_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere: there is no such file or folder"):
        data_files(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"holds none of \.jsonl.*; left out: nothing"):
        data_files(tmp_path)
    write(tmp_path / "a.arrow", "x")
    with pytest.raises(SourceError, match=r"holds none of \.jsonl.*\.parquet; left out: 1 \.arrow"):
        data_files(tmp_path)
    with pytest.raises(SourceError, match=r"a\.arrow: is none of \.jsonl"):
        data_files(tmp_path / "a.arrow")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("a.jsonl")
    with pytest.raises(SourceError, match=r"a\.jsonl: cannot be read \(Too many levels of symbolic links\)"):
        list(rows(tmp_path / "a.jsonl", "a"))


def real(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("dialogsum.dev.jsonl", 500, {"prompt": "Summarize the dialogue.\n#Person1#: Hello, how are"}),
        ("gsm8k.train.300.jsonl", 300, {"prompt": "Natalia sold clips", "response": "Natalia sold 48/2 ="}),
        ("stanford_alpaca.seed_tasks.jsonl", 175, {"prompt": "Is there anything", "record": "seed_task_0"}),
        (
            "hh-rlhf.harmless-base.300.jsonl.gz",
            300,
            {"prompt": "okay some", "chosen": "No, sorry!", "rejected": "There"},
        ),
        ("tinyshakespeare.txt", 1180, {"text": "First Citizen:\nBefore we proceed"}),
    ],
)
def test_real_files(name: str, count: int, first: dict[str, str]) -> None:
    found = list(rows(real(name), name))
    assert len(found) == count
    assert all(found[0][column].startswith(text) for column, text in first.items())
    if name.startswith("hh-rlhf"):
        assert [turn["role"] for turn in found[0]["history"]] == ["user", "assistant"] * 2
        assert all(row["chosen"] is not None and row["prompt"] for row in found)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("mmlu/anatomy_test.csv", "line 2, field question: is multiple choice"),
        (
            "HumanEval.jsonl.gz",
            "line 1: the record has the keys task_id, prompt, entry_point, canonical_solution, test",
        ),
        ("mt_bench.question.jsonl", "line 1: the record has the keys question_id, category, turns"),
    ],
)
def test_real_benchmarks_are_not_taken_for_training_data(name: str, problem: str) -> None:
    with pytest.raises(SourceError, match=f"^{name}, {problem}"):
        list(rows(real(name), name))


def test_a_folder_of_the_hub_reads(tmp_path: Path) -> None:
    write(tmp_path / "README.md", "---\nlicense: mit\n---\n")
    (tmp_path / "data").mkdir()
    as_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    found = {name: [row["prompt"] for row in rows(path, name)] for name, path in data_files(tmp_path).items()}
    assert found == {"data/train-00000-of-00001.parquet": ["q0", "q1", "q2"]}
