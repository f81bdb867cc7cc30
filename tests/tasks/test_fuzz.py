"""Clean files damaged in many ways: each is refused by file and line, or read as if it were whole."""

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from tasks.errors import SourceError
from tests.damage import (
    ABOVE,
    BOM,
    COUNT,
    FLAT,
    LFS,
    SETS,
    Harm,
    Record,
    as_parquet,
    lines_of,
    put,
    read,
    records,
    refused,
    said,
    table,
)


def on_line(change: Callable[[bytes], bytes]) -> Harm:
    return lambda lines, at: [*lines[:at], change(lines[at]), *lines[at + 1 :]]


def instead(line: bytes) -> Harm:
    return on_line(lambda _: line + b"\n")


def inside(piece: bytes) -> Harm:
    return on_line(lambda line: line[:25] + piece + line[25:])


def with_key(piece: bytes) -> Harm:
    return on_line(lambda line: line.replace(b"{", b"{" + piece + b", ", 1))


def whole(change: Callable[[bytes], bytes]) -> Harm:
    return lambda lines, at: [change(b"".join(lines))]


def recoded(encoding: str) -> Harm:
    return whole(lambda data: data.decode().encode(encoding))


class Damage(NamedTuple):
    """What is done to a file's lines at one of them, and what must be said of it.

    `place`: how far below that line the one stands that must be named; None where the file as a whole is wrong.
    """

    harm: Harm
    said: str
    suffixes: str
    place: int | None = 0


ARRAY, JSONL, TABLE, TEXT = ".json", ".jsonl .ndjson", ".csv .tsv", ".txt .md"
JSON, ALL = ".jsonl .json", ".jsonl .json .csv .tsv .txt .md"
DAMAGES = {
    "NUL byte": Damage(inside(b"\0"), "not JSON|holds a NUL byte", ALL),
    "invalid UTF-8": Damage(inside(b"\xff"), "is not UTF-8; convert it", ALL),
    "Latin-1": Damage(recoded("latin-1"), "is not UTF-8; convert it", ALL, None),
    "surrogate in bytes": Damage(inside(b"\xed\xa0\x80"), "is not UTF-8", ALL),
    "overlong UTF-8": Damage(inside(b"\xc0\xaf"), "is not UTF-8", ALL),
    "UTF-16": Damage(recoded("utf-16"), "is in UTF-16", ALL, None),
    "UTF-16 without its mark": Damage(recoded("utf-16-le"), "is in UTF-16", ALL, None),
    "UTF-32": Damage(recoded("utf-32"), "is in UTF-32", ALL, None),
    "packed without .gz": Damage(whole(gzip.compress), "gzip; let .gz follow|compressed twice", ALL, None),
    "zip archive": Damage(whole(lambda data: b"PK\3\4" + data), "packed, but not with gzip", ALL, None),
    "web page": Damage(whole(lambda _: b"<!DOCTYPE html>\n<p>404"), "not JSON|needed|no format", JSON + TABLE, None),
    "pointer of git-lfs": Damage(whole(lambda _: LFS), "git-lfs; run git lfs pull", ALL, None),
    "mark of a merge": Damage(lambda lines, at: [*lines[:at], b"<<<<<<< HEAD\n", *lines[at:]],
                              "not JSON|where a|has 1 fields", JSON + TABLE),
    "lone surrogate": Damage(inside(b"\\ud800"), "not JSON .*surrogate", JSON),
    "control character": Damage(inside(b"\x1b[31m"), "not JSON .*control character", JSON),
    "not a number": Damage(with_key(b'"n": NaN'), "not JSON .*write null", JSON),
    "infinite number": Damage(with_key(b'"n": -Infinity'), "not JSON .*write null", JSON),
    "number out of range": Damage(with_key(b'"n": 1e999'), "not JSON .*Out of range", JSON),
    "deep nesting": Damage(with_key(b'"n": ' + b"[" * 2000), "not JSON", JSONL),
    "key twice": Damage(on_line(lambda line: re.sub(rb'^{("\w+":)', rb"{\1 null, \1", line)), "the key .* twice", JSON),
    "quotes of Python": Damage(on_line(lambda line: line.replace(b'"', b"'")), "not JSON", JSON),
    "comma too many": Damage(on_line(lambda line: line.replace(b"}", b",}", 1)), "not JSON", JSON),
    "cut line": Damage(on_line(lambda line: line[:30]), "not JSON .*(too early|at character)", JSONL),
    "cut file": Damage(lambda lines, at: [*lines[:at], lines[at][:30]], "not JSON .*ends too early", JSON),
    "file cut between records": Damage(lambda lines, at: lines[: at + 1], "ends within its array", ARRAY, 1),
    "two objects on a line": Damage(on_line(lambda line: line.rstrip() + line), "not JSON .*after document", JSONL),
    "list for a record": Damage(instead(b'["a", "b"]'), r"is \['a', 'b'\]; a JSON object", JSONL),
    "deep list for a record": Damage(instead(b"[" * 1000 + b"]" * 1000), r"is \[\[.*; a JSON object", JSONL),
    "number for a record": Damage(instead(b"12"), "is 12; a JSON object is needed", JSONL),
    "null for a record": Damage(instead(b"null"), "is None; a JSON object is needed", JSONL),
    "record in a string": Damage(on_line(lambda line: json.dumps(line.decode()).encode() + b"\n"),
                                 r"is '\{.*; a JSON object is needed", JSONL),
    "later mark of UTF-8": Damage(on_line(lambda line: BOM + line), "not JSON|where a JSON object is needed", JSON),
    "old line ends": Damage(whole(lambda data: data.replace(b"\n", b"\r")), "not JSON|new-line", JSONL + TABLE, None),
    "array in lines": Damage(lambda lines, at: [b"[\n", *lines, b"]\n"], "not JSON", JSONL, None),
    "comma missing": Damage(on_line(lambda line: line.removesuffix(b",\n") + b"\n"), "where a comma", ARRAY, 1),
    "comma at the end": Damage(whole(lambda data: data.replace(b"\n]", b",\n]")), r"has \] where", ARRAY, None),
    "more after the end": Damage(whole(lambda data: data + b"{}"), "has { where the end is needed", ARRAY, None),
    "text in the array": Damage(instead(b'"a",'), 'has "a" where a JSON object is needed', ARRAY),
    "quote missing": Damage(on_line(lambda line: line[1:] if line[0] == ord('"') else b'"' + line), "a quote missing",
                            TABLE),
    "field too many": Damage(on_line(lambda line: line.rstrip() + b",x\tx\n"), "fields, the first line", TABLE),
    "field missing": Damage(instead(b"one"), "has 1 fields, the first line", TABLE),
    "other delimiter": Damage(whole(partial(re.sub, b"[,\t]", b";")), "has one column, prompt;", TABLE, None),
    "no header": Damage(lambda lines, at: lines[1:], "must name the columns|fields must be parted", TABLE, None),
    "header twice": Damage(lambda lines, at: [*lines[:at], lines[0], *lines[at:]], "names the columns again", TABLE),
    "column twice": Damage(lambda lines, at: [re.sub(rb"^(\w+)(.)\w+", rb"\1\2\1", lines[0]), *lines[1:]],
                           "must name the columns, each once", TABLE, None),
    "emptied": Damage(lambda lines, at: [], "has nothing; it must name the columns", TABLE, None),
}  # fmt: skip
OF_COLUMNS = {"mark of a merge", "field too many", "field missing", "other delimiter", "column twice"}


def damaged() -> list[Any]:
    found = []
    for name, damage in DAMAGES.items():
        for suffix in re.findall(r"\.\w+", damage.suffixes):
            for of, packed in (("text", ""), ("answers", ".gz"), ("labels", ""), ("chats", ".gz")):
                fits = of == "text" if suffix in TEXT else of in FLAT or suffix not in TABLE
                if fits and not (of == "text" and suffix in TABLE and name in OF_COLUMNS):
                    found.append(pytest.param(damage, of, suffix + packed, id=f"{name}-{of}{suffix}{packed}"))
    return found


@pytest.mark.parametrize(("damage", "of", "suffix"), damaged())
def test_a_damaged_line_is_named(tmp_path: Path, damage: Damage, of: str, suffix: str) -> None:
    plain = suffix.removesuffix(".gz")
    at = Random(f"{of}{suffix}").randrange(4, COUNT - 4, 2) + ABOVE[plain]
    path = put(tmp_path / f"a{suffix}", damage.harm(lines_of(records(of), plain), at))
    message = refused(path, SETS[of][0])
    assert re.search(damage.said, message), message
    assert damage.place is None or f"a{suffix}, line {at + damage.place + 1}: " in message, (message, at + 1)


GOOD_LINES: dict[str, tuple[Harm, str]] = {
    "mark of UTF-8": (whole(lambda data: BOM + data), ALL),
    "line ends of Windows": (whole(lambda data: data.replace(b"\n", b"\r\n")), ALL),
    "old line ends": (whole(lambda data: data.replace(b"\n", b"\r")), TEXT + ARRAY),
    "empty lines": (lambda lines, at: [line for each in lines for line in (each, b"\n")], ALL),
    "blank lines": (lambda lines, at: [line for each in lines for line in (each, b" \t\r\n")], JSON + TEXT),
    "no last line end": (lambda lines, at: [*lines[:-1], lines[-1].rstrip()], ALL),
    "spaces around": (lambda lines, at: [b"  " + line.rstrip() + b" \t\n" for line in lines], JSON + TEXT),
    "array on one line": (lambda lines, at: [line.rstrip() for line in lines], ARRAY),
    "objects without an array": (lambda lines, at: [line.rstrip(b",\n") for line in lines[1:-1]], ARRAY),
    "unknown key twice": (with_key(b'"n": 1, "n": 2'), JSON),
    "unknown deep nesting": (with_key(b'"n": ' + b"[" * 900 + b"]" * 900), JSON),
    "unknown huge integer": (with_key(b'"n": ' + b"9" * 5000), JSON),
    "unknown odd key": (with_key(rb'"\u001b\u0000": "\u0000"'), JSON),
}


@pytest.mark.parametrize(
    ("harm", "suffix"),
    [
        pytest.param(harm, suffix, id=f"{name}{suffix}")
        for name, (harm, suffixes) in GOOD_LINES.items()
        for suffix in re.findall(r"\.\w+", suffixes)
    ],
)
def test_harmless_lines_lose_nothing(tmp_path: Path, harm: Harm, suffix: str) -> None:
    for of in ("text",) if suffix in TEXT else FLAT if suffix in TABLE else SETS:
        lines = lines_of(records(of), suffix)
        clean = read(put(tmp_path / f"clean{suffix}", lines), SETS[of][0])
        assert len(clean) == COUNT
        for packed in ("", ".gz"):
            path = put(tmp_path / f"{of}{suffix}{packed}", harm(lines, 7 + ABOVE[suffix]))
            assert read(path, SETS[of][0]) == clean


def turned(held: Sequence[Record]) -> list[Record]:
    return [dict(reversed(record.items())) for record in held]


def members(held: Sequence[Record]) -> bytes:
    """What `cat a.gz b.gz` gives, filled up with zeros as on a tape."""
    lines = lines_of(held, ".jsonl")
    return gzip.compress(b"".join(lines[:9])) + gzip.compress(b"".join(lines[9:])) + bytes(512)


def retyped(held: Sequence[Record], change: Callable[[pa.Array], pa.Array]) -> bytes:
    made = pa.Table.from_pylist(held)
    texts = [change(column) if pa.types.is_string(column.type) else column for column in made.columns]
    return as_parquet(pa.table(texts, names=made.column_names))


SAME: dict[str, tuple[str, Callable[[list[Record]], bytes]]] = {
    "keys in another order": ("a.jsonl", lambda held: b"".join(lines_of(turned(held), ".jsonl"))),
    "escapes": ("a.json", lambda held: json.dumps(held).encode()),
    "indented": ("a.json", lambda held: json.dumps(held, indent=4, ensure_ascii=False).encode()),
    "shouted suffix": ("a.JSONL", lambda held: b"".join(lines_of(held, ".jsonl"))),
    "members": ("a.jsonl.gz", members),
    "columns in another order": ("a.csv", lambda held: table(turned(held), ",")),
    "unknown column": ("a.csv", lambda held: table([{**record, "n": "\x1b"} for record in held], ",")),
    "quotes everywhere": ("a.tsv", partial(table, delimiter="\t", quoting=csv.QUOTE_ALL)),
    "table of Windows": ("a.csv", partial(table, delimiter=",", lineterminator="\r\n")),
    "Parquet": ("a.parquet", as_parquet),
    "Parquet, columns in another order": ("a.parquet", lambda held: as_parquet(turned(held))),
    "Parquet, many groups": ("a.parquet", partial(as_parquet, row_group_size=3, write_page_checksum=True)),
    "Parquet, plain": ("a.parquet", partial(as_parquet, compression="none", use_dictionary=False)),
    "Parquet, zstd": ("a.parquet", partial(as_parquet, compression="zstd", data_page_version="2.0")),
    "Parquet, large texts": ("a.parquet", partial(retyped, change=lambda column: column.cast(pa.large_string()))),
    "Parquet, codes": ("a.parquet", partial(retyped, change=lambda column: column.dictionary_encode())),
    "Parquet, null column": ("a.parquet", lambda held: as_parquet([{**record, "n": None} for record in held])),
}


@pytest.mark.parametrize(
    ("name", "of"), [(name, of) for name in SAME for of in (FLAT if SAME[name][0][2:] in TABLE else SETS)]
)
def test_the_same_records_are_the_same_rows(tmp_path: Path, name: str, of: str) -> None:
    file, make = SAME[name]
    clean = read(put(tmp_path / "clean.jsonl", lines_of(records(of), ".jsonl")), SETS[of][0])
    path = tmp_path / file
    path.write_bytes(make(records(of)))
    assert read(path, SETS[of][0]) == clean


GZIPS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-30],
    "cut in its last bytes": lambda data: data[:-3],
    "cut in its header": lambda data: data[:6],
    "another checksum": lambda data: data[:-8] + bytes(4) + data[-4:],
    "another length": lambda data: data[:-4] + bytes(4),
    "damaged in the middle": lambda data: data[: len(data) // 2] + bytes(9) + data[len(data) // 2 + 9 :],
    "something behind it": lambda data: data + b"x",
    "empty": lambda data: b"",
    "no gzip": gzip.decompress,
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt"])
@pytest.mark.parametrize("name", GZIPS)
def test_a_damaged_gzip_file_is_named(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}.gz"
    path.write_bytes(GZIPS[name](gzip.compress(b"".join(lines_of(records("text"), suffix)))))
    assert "is no whole gzip file" in refused(path, "text")


def with_column(values: Sequence[Any], kind: pa.DataType) -> bytes:
    return as_parquet(pa.table({"text": [said(i) for i in range(COUNT)], "n": pa.array(values, kind)}))


def with_bytes() -> bytes:
    """A column of strings that are no UTF-8 from the eighth on."""
    texts = pa.array([said(i).encode() + (b"\xff" if i >= 7 else b"") for i in range(COUNT)], pa.binary())
    return as_parquet(pa.table({"text": pa.Array.from_buffers(pa.string(), COUNT, texts.buffers())}))


def flipped(data: bytes) -> bytes:
    at = data.index(b"harbour")
    return data[:at] + b"H" + data[at + 1 :]


SUMMED = partial(as_parquet, compression="none", use_dictionary=False, write_page_checksum=True)
PARQUETS: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut": (lambda: as_parquet(records("text"))[:-20], "is no whole Parquet file"),
    "cut at its start": (lambda: as_parquet(records("text"))[20:], "is no whole Parquet file"),
    "marks alone": (lambda: b"PAR1" * 9, "is no whole Parquet file"),
    "pointer of git-lfs": (lambda: LFS, "is no whole Parquet file"),
    "lines": (lambda: b"".join(lines_of(records("text"), ".jsonl")), "is no whole Parquet file"),
    "packed": (lambda: gzip.compress(as_parquet(records("text"))), "is no whole Parquet file"),
    "nothing": (lambda: b"", "is no whole Parquet file"),
    "damaged page": (lambda: flipped(SUMMED(records("text"))), "is no whole Parquet file .*CRC"),
    "invalid UTF-8": (with_bytes, ", row 8: cannot be read .*mend the column text"),
    "date too far": (lambda: with_column([1] * 7 + [2**30] * 13, pa.date32()), ", row 8: cannot be read .*column n"),
    "time too far": (lambda: with_column([2**62] * COUNT, pa.timestamp("ms")), ", row 1: cannot be read .*column n"),
    "unknown zone": (lambda: with_column([1] * COUNT, pa.timestamp("s", "No/Where")), ", row 1: cannot be read"),
    "column twice": (lambda: as_parquet(pa.table([["a"], ["b"]], names=["text", "text"])), "each must be there once"),
    "bytes": (lambda: as_parquet(pa.table({"text": [b"a"]})), r", row 1, field text: is the bytes b'a'"),
    "numbers": (lambda: as_parquet(pa.table({"text": [1.5]})), ", row 1, field text: is the number 1.5"),
    "nested": (lambda: as_parquet(pa.table({"text": [{"a": "b"}]})), r", row 1, field text: is the object \{'a'"),
    "NUL character": (lambda: as_parquet(pa.table({"text": ["a", "\0"]})), ", row 2, field text: holds a NUL"),
    "escape in a column's name": (lambda: as_parquet(pa.table({"\x1b[2J": ["a"]})), r", row 1: .*keys \\x1b\[2J"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARQUETS)
def test_a_damaged_parquet_file_is_named(tmp_path: Path, name: str) -> None:
    make, what = PARQUETS[name]
    assert re.search(what, refused(put(tmp_path / "a.parquet", make()), "text"))


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".json.gz", ".csv.gz", ".txt.gz", ".parquet", *ABOVE])
def test_whatever_becomes_of_single_bits_it_is_an_error_or_rows(tmp_path: Path, suffix: str) -> None:
    """Behind a checksum no change goes unnoticed; without one a letter may become another one."""
    held = records("text")
    content = SUMMED(held) if suffix == ".parquet" else lines_of(held, suffix.removesuffix(".gz"))
    path = put(tmp_path / f"a{suffix}", content)
    whole_file, clean = path.read_bytes(), read(path, "text")
    ends: Counter[str] = Counter()
    for seed in range(60):
        damaged_file, picks = bytearray(whole_file), Random(f"{suffix}{seed}")
        for place in picks.sample(range(len(whole_file)), 1 + seed % 3):
            damaged_file[place] ^= 1 << picks.randrange(8)
        path.write_bytes(damaged_file)
        try:
            ends["whole" if read(path, "text") == clean else "changed"] += 1
        except SourceError:
            ends["refused"] += 1
    assert ends["refused"] >= 10
    assert not ends["changed"] or not suffix.endswith(("gz", "parquet"))
