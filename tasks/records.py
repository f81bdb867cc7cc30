"""A file's records, one by one and in bounded memory: JSON lines, JSON, tables, running text, Parquet; packed or not.

Every error is a SourceError that names the file and the line (or the row of a table without lines).
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import orjson

from models import prose
from models.formats import KNOWN, Record, excerpt, printable
from tasks.errors import SourceError

LIMIT = 16 << 20  # bytes of one line or record: all that has to be in memory at a time
BLOCK = 1 << 20  # bytes read at a time
TOO_LONG = f"a line or record is longer than {LIMIT >> 20} MiB; split it, or leave it out"
WORDS = 200  # of a passage of running text
TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".md")
SUFFIXES = (*TEXTS, *(f"{suffix}.gz" for suffix in TEXTS), ".parquet")
BOM = b"\xef\xbb\xbf"
GZIP = b"\x1f\x8b"
UTF_16 = "in UTF-16; convert it, e.g. iconv -f UTF-16 -t UTF-8"
FOREIGN = {  # by how the file starts
    **dict.fromkeys((b"\xff\xfe\0\0", b"\0\0\xfe\xff"), "in UTF-32; convert it, e.g. iconv -f UTF-32 -t UTF-8"),
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), UTF_16),
    GZIP: "compressed with gzip; let .gz follow the name",
    **dict.fromkeys((b"PK\3\4", b"BZh91AY", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), "packed, but not with gzip; unpack"),
    b"PAR1": "a Parquet file; let .parquet end the name of",
    b"version https://git-lfs": "a pointer of git-lfs; run git lfs pull for",
}
Stream = gzip.GzipFile | BinaryIO
Numbered = Iterator[tuple[int, Record]]
_QUOTED = {key: b'"%b"' % key.encode() for key in KNOWN}
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z|\\\Z)|[{}\[\],]|[^{}\[\],"]+', re.DOTALL)
_OPENS, _CLOSES = (b"{", b"["), (b"}", b"]")


def suffix_of(name: str) -> str:
    """The suffix that decides how a file is read, in lower case, `.gz` included."""
    plain = name.lower().removesuffix(".gz")
    return PurePath(plain).suffix + name.lower()[len(plain) :]


def is_prose(name: str) -> bool:
    """Whether a file is read as running text rather than as records."""
    return suffix_of(name).removesuffix(".gz") in (".txt", ".md")


def records(path: Path, *, block: int = BLOCK, words: int = WORDS) -> Numbered:
    """The records of a file with their numbers from 1: the first line of each, in Parquet the row.

    Reads `block` bytes at a time; running text is cut into passages of at most about `words` words.
    Raises SourceError for a file that is no whole one of its kind, and for a line or record above LIMIT bytes.
    """
    suffix = check_suffix(path)
    if suffix == ".parquet":
        with _reading(path):
            yield from _parquet(path, block)
        return
    with _reading(path), _opened(path, block) as file:
        match suffix.removesuffix(".gz"):
            case ".json":
                yield from _json(file, path, block)
            case ".csv" | ".tsv":
                yield from _table(file, path, "\t" if ".tsv" in suffix else ",")
            case ".txt" | ".md":
                yield from _passages(file, path, block, words)
            case _:
                lines = _lines(file, path)
                yield from ((number, _object(line, path, number)) for number, line in lines if not line.isspace())


def check_suffix(path: Path) -> str:
    suffix = suffix_of(path.name)
    if suffix not in SUFFIXES:
        raise _wrong(path, f"is none of {', '.join(SUFFIXES)}; convert it, e.g. to JSON lines")
    return suffix


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises SourceError for what can happen to a file at any time, a change while it is read included."""
    try:
        before = _state(path)
        yield
        changed = _state(path) != before
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _wrong(path, f"is no whole gzip file ({error}); copy or pack it again") from None
    except OSError as error:
        raise _wrong(path, f"cannot be read ({error.strerror or error})") from None
    if changed:
        raise _wrong(path, "changed while it was read; run again when nothing writes to it")


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@contextmanager
def _opened(path: Path, block: int) -> Iterator[Stream]:
    """The file's bytes, unpacked, from behind its byte order mark. Raises SourceError where they cannot be UTF-8."""
    packed = suffix_of(path.name).endswith(".gz")
    with path.open("rb", buffering=block) as raw, gzip.GzipFile(fileobj=raw) if packed else raw as file:
        start = file.read(32)
        if packed and not raw.tell():
            raise EOFError("it is empty")  # which gzip.GzipFile lets pass
        unmarked = UTF_16 if start[:4].count(0) == 2 and b"\0\0" in (start[:4:2], start[1:4:2]) else ""
        foreign = next((what for magic, what in FOREIGN.items() if start.startswith(magic)), unmarked)
        if foreign:
            twice = packed and start.startswith(GZIP)
            raise _wrong(path, f"is {'compressed twice; unpack' if twice else foreign} {path.name}")
        file.seek(len(BOM) if start.startswith(BOM) else 0)
        yield file


def _wrong(path: Path, problem: str) -> SourceError:
    return SourceError(printable(f"{path}: {problem}"))


def _at(path: Path, number: int, problem: str, *, unit: str = "line") -> SourceError:
    return SourceError(printable(f"{path}, {unit} {number}: {problem}"))


def _lines(file: Stream, path: Path) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(iter(partial(file.readline, LIMIT + 1), b""), start=1):
        if len(line) > LIMIT:
            raise _at(path, number, TOO_LONG)
        yield number, line


def _decoded(file: Stream, path: Path) -> Iterator[tuple[int, str]]:
    for number, line in _lines(file, path):
        if b"\0" in line:
            raise _at(path, number, "holds a NUL byte, so it is no text; leave the file out, or convert it to UTF-8")
        yield number, _utf8(line, path, number)


def _utf8(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1} of it, {line[error.start : error.start + 1]!r}, is not UTF-8"
        raise _at(path, number, f"{problem}; convert it, e.g. iconv -f LATIN1 -t UTF-8 {path.name}") from None


def _object(text: bytes, path: Path, number: int) -> Record:
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        record = _once_more(text, error, path, number)
    if not isinstance(record, dict):
        shown = repr(record) if isinstance(record, str) else record
        raise _at(path, number, f"is {excerpt(shown)}; a JSON object is needed")
    for key in record:
        if key in _QUOTED and text.count(_QUOTED[key]) > 1 and _is_repeated(key, text):
            raise _at(path, number, f"has the key {key} twice, of which one value would be lost; leave one out")
    return record


def _is_repeated(key: str, text: bytes) -> bool:
    """Whether an object has the key more than once, those of objects within it aside."""
    depth = found = 0
    for token, after in pairwise(_TOKEN.findall(text)):
        depth += (token in _OPENS) - (token in _CLOSES)
        found += depth == 1 and token == _QUOTED[key] and after.lstrip().startswith(b":")
    return found > 1


def _once_more(text: bytes, error: orjson.JSONDecodeError, path: Path, number: int) -> Any:
    """Reads integers beyond a float's range, which orjson refuses; of anything else says what is wrong with it."""
    plain = _utf8(text, path, number)
    near = plain[error.pos : error.pos + 20].strip()
    problem = f"{error.msg} at character {error.pos + 1}: {near!r}" if near else f"{error.msg}: it ends too early"
    if "infinity" in error.msg:
        try:
            record = json.loads(plain, parse_int=Decimal)
            json.dumps(record, allow_nan=False, ensure_ascii=False, default=str).encode()  # json.loads alone is lax
            return record
        except (ValueError, RecursionError) as other:
            problem = str(other)
    remedy = "write null" if near.lstrip("-").startswith(("NaN", "Inf")) else "write one JSON object a line"
    raise _at(path, number, f"not JSON ({problem}); {remedy}")


def _json(file: Stream, path: Path, block: int) -> Numbered:
    """The objects of an array, or of a file that holds one after the other."""
    tokens = _tokens(file, block)
    array, value, line, ready = None, b"", 1, True  # array is not known before the first token
    for token in tokens:
        if token == b"[" and array is None:
            array = True
        elif token in _OPENS and ready:
            value = _value(token, tokens, path, line)
            yield line, _object(value, path, line)
            line += value.count(b"\n")
            array, ready = bool(array), not array
        elif token == b"," and array and not ready:
            ready = True
        elif token == b"]" and array and not (ready and value):
            array = ready = False
        elif not token.isspace():
            line += token.removesuffix(token.lstrip()).count(b"\n")
            wanted = "a JSON object" if ready else "a comma" if array else "the end"
            raise _at(path, line, f"has {excerpt(token.strip().decode(errors='replace'))} where {wanted} is needed")
        line += token.count(b"\n")
    if array:
        raise _at(path, line, "the file ends within its array, so it is cut short; copy or write it again")


def _value(first: bytes, tokens: Iterator[bytes], path: Path, line: int) -> bytes:
    """The object or list that `first` opens, up to where it is closed or the file ends."""
    parts, depth, size = [first], 1, 1
    for token in tokens:
        parts.append(token)
        size += len(token)
        depth += (token in _OPENS) - (token in _CLOSES)
        if size > LIMIT:
            raise _at(path, line, TOO_LONG)
        if not depth:
            break
    return b"".join(parts)


def _tokens(file: Stream, block: int) -> Iterator[bytes]:
    """The file in pieces: brackets and commas outside strings, strings, and what is between them."""
    held = b""
    while more := file.read(block):
        *whole, held = _TOKEN.findall(held + more)
        if len(held) > LIMIT:  # whoever gathers it knows its line and refuses it
            whole, held = [*whole, held], b""
        yield from whole
    if held:
        yield held


def _table(file: Stream, path: Path, delimiter: str) -> Numbered:
    csv.field_size_limit(max(csv.field_size_limit(), LIMIT))  # of the whole process; the default is 128 KiB
    table = csv.reader((line for _, line in _decoded(file, path)), delimiter=delimiter, strict=True)
    number = 1
    try:
        header = next(table, [])
        if len(set(header)) < max(1, len(header)):
            raise _at(path, 1, f"has {excerpt(', '.join(header)) or 'nothing'}; it must name the columns, each once")
        if len(header) == 1 and re.search(r"[;|\t,]", header[0]):
            raise _at(path, 1, f"has one column, {excerpt(header[0])}; fields must be parted by {delimiter!r}")
        number = table.line_num + 1
        for fields in table:
            if len(fields) not in (0, len(header)):
                raise _at(path, number, f"has {len(fields)} fields, the first line {len(header)}; is a quote missing?")
            if fields == header:
                raise _at(path, number, "names the columns again; were two files joined? leave this line out")
            if fields:
                yield number, dict(zip(header, fields, strict=True))
            number = table.line_num + 1
    except csv.Error as error:
        raise _at(path, number, f"{error} in the record that begins here; is a quote missing?") from None


def _passages(file: Stream, path: Path, block: int, words: int) -> Numbered:
    """As `prose.passages` cuts the whole text: the last passage of a stretch may go on in the next one."""
    carry, places = "", list[int]()  # the line of every word
    for stretch in _stretches(file, path, block):
        places += [number for number, line in stretch for _ in line.split()]
        text = "".join(line for _, line in stretch).replace("\r\n", "\n").replace("\r", "\n")
        *whole, carry = list(prose.passages(f"{carry}\n\n{text}", words=words)) or [""]
        for passage in whole:
            yield places[0], {"text": passage}
            del places[: len(passage.split())]
    if carry:
        yield places[0], {"text": carry}


def _stretches(file: Stream, path: Path, block: int) -> Iterator[list[tuple[int, str]]]:
    """Lines up to the end of a paragraph, `block` characters or more; a paragraph of four blocks is cut there."""
    stretch, size = list[tuple[int, str]](), 0
    for number, line in _decoded(file, path):
        stretch.append((number, line))
        size += len(line)
        if size >= block and (line.isspace() or size >= 4 * block):
            yield stretch
            stretch, size = [], 0
    yield stretch


def _parquet(path: Path, block: int) -> Numbered:
    from pyarrow import ArrowException, parquet

    try:
        # Without pre_buffer=False a whole row group is read ahead, and some writers make one of a whole file.
        with parquet.ParquetFile(path, buffer_size=block, pre_buffer=False, page_checksum_verification=True) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise _wrong(path, f"has the columns {excerpt(', '.join(names))}; each must be there once")
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            most, before = min(1024, LIMIT * file.metadata.num_rows // max(1, size)), 0
            if size > LIMIT and not most:
                raise _wrong(path, TOO_LONG)
            for batch in file.iter_batches(batch_size=max(1, most)):
                yield from enumerate(_as_records(batch, path, before), start=before + 1)
                before += batch.num_rows
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise _wrong(path, f"is no whole Parquet file ({str(error)[:100]}); copy or write it again") from None


def _as_records(batch: Any, path: Path, before: int) -> list[Record]:
    """The rows of a batch that `before` rows precede. Raises SourceError for a value that Python cannot hold."""
    unreadable = (ValueError, ArithmeticError, LookupError)  # bytes that are no UTF-8, a date too far, an unknown zone
    try:
        return batch.to_pylist()
    except unreadable:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for number, value in enumerate(column, start=before + 1):
                try:
                    value.as_py()
                except unreadable as error:
                    problem = f"cannot be read ({error}); mend the column {name}, or leave it out"
                    raise _at(path, number, problem, unit="row") from None
        raise
