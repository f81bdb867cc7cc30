"""Data sources: which there are, what decides their content, and their candidate rows as one stream.

A candidate row holds what its file of the data set holds, and beside it: `holdout` (the rule that decides its side),
`record` (the id in the source), and the columns its suite looks at. Nothing is judged here; rows are read one by one,
so that a source may be larger than the memory.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from models import prose
from models.formats import printable
from tasks import encyclopaedia, hub, mining, readers
from tasks.cut import Cut, Found
from tasks.records import is_prose, suffix_of
from tasks.rows import Row

logger = logging.getLogger("evergreen.ingest")
BESIDE_CODE = {f"{suffix}{packed}" for suffix in (".json", ".csv", ".tsv") for packed in ("", ".gz")}
LONG_GROUP = 80  # characters: a longer name of a group is replaced by its digest
SIDES = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_SIDE = re.compile(r"(?:^|[/_.\-])(train|training|validation|valid|val|dev|test)(?=[/_.\-]|$)")


def facts(source: str, languages: Sequence[str]) -> dict[str, Any]:
    """Releases of the packages and digests of the files that a source reads: they are part of the step's key.

    Raises SourceError where the source is missing or is not what it should be.
    """
    kind, _, where = source.partition(":")
    match kind:
        case "builtin":
            return encyclopaedia.facts(languages)
        case "package":
            return mining.package_facts(where.split(","))
        case "path":
            python = _python(where)
            return mining.folder_facts(python | _prepared(where, python))
        case _:
            return hub.facts(where)


def read(source: str, languages: Sequence[str], cut: Cut) -> Iterator[Found]:
    """The candidate rows of a source, each with the file it belongs to. Raises SourceError for what cannot be read."""
    kind, _, where = source.partition(":")
    match kind:
        case "builtin":
            yield from encyclopaedia.read(languages, cut)
        case "package":
            yield from mining.read_packages(where.split(","), cut)
        case "path":
            yield from _folder(where, cut)
        case _:
            yield from _hub(where, cut)


def side_named(name: str) -> str:
    """The side that a file's or a split's name says, as in `data/train-00000-of-00001.parquet`; empty for none."""
    said = _SIDE.findall(name)
    return next((side for side, words in SIDES.items() if said and said[-1] in words), "")


def _folder(where: str, cut: Cut) -> Iterator[Found]:
    python = _python(where)
    files = _prepared(where, python)
    origin = {"source": f"path:{printable(readers.located(where).name)}", "licence": "own"}
    code = {**origin, "holdout": "rank:code"}
    yield from mining.mine(
        python, {name: {**code, "group": name if len(python) >= 3 else ""} for name in python}, cut,
        quota=cut.docstrings,
    )  # fmt: skip
    prose_files = [name for name in files if is_prose(name)]
    sides = holdouts(files)
    for name in cut.take(files):
        common = {**origin, **sides[name], "file": name}
        whole = name if name in prose_files and len(prose_files) >= 3 else ""
        for row in readers.rows(files[name], name, words=cut.passage_words):
            yield _own(row, common, whole)


def _hub(where: str, cut: Cut) -> Iterator[Found]:
    splits = hub.splits(where)
    sides = holdouts(splits)
    for split in splits:
        common = {"source": hub.shown(where), "licence": hub.licence(splits), **sides[split], "file": split}
        for row in hub.rows(where, split, splits):
            yield _own(row, common, "")


def _python(where: str) -> dict[str, Path]:
    folder = readers.located(where)
    return mining.python_files(folder) if readers.is_folder(folder) else {}


def _prepared(where: str, python: Mapping[str, Path]) -> dict[str, Path]:
    """The files of a folder that are not code. Raises SourceError where there is neither.

    Beside code, tables and .json are settings and fixtures, and left alone.
    """
    folder = readers.located(where)
    if not python:
        return readers.data_files(folder)
    try:
        files = readers.data_files(folder)
    except readers.NoDataError:
        return {}
    settings = [name for name in files if suffix_of(name) in BESIDE_CODE]
    if settings:
        said = "path:%s: left out as settings of the code beside them: %s; keep data in a folder of its own"
        logger.warning(said, printable(where), ", ".join(settings[:20]))
    return {name: path for name, path in files.items() if name not in settings}


def holdouts(names: Iterable[str]) -> dict[str, Row]:
    """The rule of each file or split: the side that its name says where the names tell sides apart, else by group.

    A held-out side that no name says is carved out of what is for training.
    """
    said = {name: side_named(name) for name in names}
    count = Counter(said.values())
    if not count["train"] or not (count["validation"] or count["test"]):
        return {name: {"holdout": "rank:prose" if is_prose(name) else "rank:rows"} for name in said}
    missing = [side for side in ("validation", "test") if not count[side]]
    carved: Row = {"holdout": f"carve:{missing[0]}"} if missing else {"holdout": "given", "side": "train"}
    return {
        name: {"holdout": "given", "side": side} if side in ("validation", "test") else carved
        for name, side in said.items()
    }


def _own(row: Mapping[str, Any], common: Row, whole: str) -> Found:
    """A canonical row of somebody's own file as a candidate row, under the file that its columns belong to."""
    record = f"{common['file']}:{row['line']}" + (f".{row['part']}" if row.get("part") else "")
    shown = next((row[part] for part in ("prompt", "text", "chosen") if row.get(part)), record)
    made = {
        **common, "licence": row.get("licence", common["licence"]), "record": row.get("record", record),
        "line": row["line"], "group": row.get("group") or whole or _group(shown), "id": f"row:{record}",
    }  # fmt: skip
    if "text" in row:
        return "text", {**made, "domain": row.get("domain", "prose"), "text": row["text"]}
    made |= {"kind": row.get("kind", "given"), "prompt": row["prompt"]}
    if row.get("history"):
        made["history"] = row["history"]
    if "chosen" in row:
        pair = {"chosen": row["chosen"], "rejected": row["rejected"], "origin": row.get("origin", "given")}
        return "preferences", {**made, **pair}
    if "label" in row:
        return "labels", {**made, "response": row["response"], "label": row["label"]}
    return "instructions", {**made, "response": row["response"]}


def _group(text: str) -> str:
    folded = prose.fold(text)
    return folded if len(folded) <= LONG_GROUP else f"text:{prose.place(0, folded)[:16]}"
