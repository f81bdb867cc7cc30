"""Small clean files of every kind and container, and how they are read and changed."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tasks.errors import SourceError
from tasks.readers import rows

Record = dict[str, Any]
Lines = list[bytes]
Harm = Callable[[Lines, int], Lines]
Change = Callable[[list[Record], int], list[Record]]
COUNT = 20
WORDS = (
    "river", "stone", "cloud", "garden", "mirror", "bridge", "winter", "letter", "candle", "harbour", "forest",
    "window", "silver", "journey", "market",
)  # fmt: skip
BOM = b"\xef\xbb\xbf"
LINE = b'{"text": "a"}\n'
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def said(number: int, where: str = "close") -> str:
    one, other, last = (WORDS[number * step % len(WORDS)] for step in (1, 2, 7))
    return f"The {one} lies {where} to the {other}, café {number * 31} of the {last}, on side {number}"


def asked(number: int) -> str:
    return f"{said(number)}?"


def turns(number: int, role: str, content: str, *who: str) -> list[Record]:
    return [{role: name, content: text} for name, text in zip(who, (asked(number), said(number, "near")), strict=True)]


def pair(number: int) -> Record:
    words = ("near", "beyond")[:: 1 if number % 2 else -1]
    return {"prompt": asked(number), "chosen": said(number, words[0]), "rejected": said(number, words[1])}


SETS: dict[str, tuple[str, Callable[[int], Record]]] = {
    "text": ("text", lambda i: {"text": said(i)}),
    "answers": ("instructions", lambda i: {"prompt": asked(i), "response": said(i, "near")}),
    "alpaca": ("instructions", lambda i: {"instruction": asked(i), "input": WORDS[i % 9], "output": said(i, "near")}),
    "dialogues": ("instructions", lambda i: {"dialogue": asked(i), "summary": said(i, "near")}),
    "chats": ("instructions", lambda i: {"messages": turns(i, "role", "content", "user", "assistant")}),
    "sharegpt": ("instructions", lambda i: {"conversations": turns(i, "from", "value", "human", "gpt")}),
    "pairs": ("preferences", pair),
    "labels": ("preferences", lambda i: {"prompt": asked(i), "response": said(i, "near"), "label": i % 3 > 0}),
}
FLAT = [name for name in SETS if name not in ("chats", "sharegpt")]
ABOVE = {".jsonl": 0, ".ndjson": 0, ".json": 1, ".csv": 1, ".tsv": 1, ".txt": 0, ".md": 0}  # lines above the records


def records(name: str) -> list[Record]:
    return [SETS[name][1](number) for number in range(COUNT)]


def table(held: Sequence[Record], delimiter: str, **options: Any) -> bytes:
    text = io.StringIO()
    made = csv.DictWriter(text, held[0], delimiter=delimiter, **{"lineterminator": "\n", **options})
    made.writeheader()
    made.writerows(held)
    return text.getvalue().encode()


def lines_of(held: Sequence[Record], suffix: str) -> Lines:
    """A file's lines: one record a line, in running text with an empty line after each."""
    dumped = [json.dumps(record, ensure_ascii=False).encode() for record in held]
    match suffix:
        case ".json":
            return [b"[\n", *(line + b",\n" for line in dumped[:-1]), dumped[-1] + b"\n", b"]\n"]
        case ".csv" | ".tsv":
            return table(held, "\t" if suffix == ".tsv" else ",").splitlines(keepends=True)
        case ".txt" | ".md":
            return [line for record in held for line in (f"{record['text']}\n".encode(), b"\n")]
    return [line + b"\n" for line in dumped]


def as_parquet(held: Sequence[Record] | pa.Table, **options: Any) -> bytes:
    content = io.BytesIO()
    parquet.write_table(held if isinstance(held, pa.Table) else pa.Table.from_pylist(held), content, **options)
    return content.getvalue()


def put(path: Path, content: bytes | Lines) -> Path:
    data = content if isinstance(content, bytes) else b"".join(content)
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def read(path: Path, kind: str) -> list[Record]:
    """The rows without their places; every sentence of a running text is a passage."""
    found = rows(path, path.name, kind, words=20)
    return [{key: row[key] for key in row if key not in ("file", "line")} for row in found]


def refused(path: Path, kind: str) -> str:
    """What is said of a file that is not read: it names the file, on one line that is fit for a terminal."""
    with pytest.raises(SourceError) as caught:
        read(path, kind)
    message = str(caught.value)
    assert message.isprintable()
    assert path.name in message
    return message


def of_row(**changes: Any) -> Change:
    return lambda held, at: [*held[:at], {**held[at], **changes}, *held[at + 1 :]]


def instead_of_row(record: Record) -> Change:
    return lambda held, at: [*held[:at], record, *held[at + 1 :]]


def every(**changes: Any) -> Change:
    return lambda held, at: [{**record, **changes} for record in held]
