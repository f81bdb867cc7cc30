"""Reads every source into candidate rows, one file per kind, and mixes sources by their weights."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from models import prose
from models.formats import printable
from tasks import sources
from tasks.cut import Cut, Found
from tasks.errors import SourceError
from tasks.progress import Count
from tasks.rows import Row, count, read, write

if TYPE_CHECKING:
    from tasks.data import IngestRecipe

logger = logging.getLogger("evergreen.ingest")
FILES = ("text", "instructions", "ratings", "preferences", "labels")


def ingest(folder: Path, recipe: "IngestRecipe") -> dict[str, Any]:
    """Writes `FILE.jsonl` for each kind of row that the sources hold; returns the rows of each and what was left out.

    Raises SourceError where there is nothing usable.
    """
    cut = Cut(recipe.seed, recipe.limit, recipe.prompt_words, recipe.passage_words, recipe.docstrings)
    parts = []
    for number, source in enumerate(recipe.sources):
        parts.append(folder / "parts" / str(number))
        parts[-1].mkdir(parents=True)
        found = _split(sources.read(source, recipe.languages, cut), parts[-1], "" if number == 0 else f"{number}:")
        if not found:
            raise SourceError(f"{source}: no function, no text and no row with prompt and response in it")
    left_out = _mix(folder, parts, recipe.sources, recipe.seed)
    shutil.rmtree(folder / "parts")
    if not (folder / "text.jsonl").exists():
        write(folder / "text.jsonl", _as_text(folder))
    rows = {name: count(folder / f"{name}.jsonl") for name in FILES if (folder / f"{name}.jsonl").exists()}
    return {"rows": rows, **({"left_out_by_the_mixture": left_out} if left_out else {})}


def confirm(recipe: "IngestRecipe", facts: Mapping[str, Any]) -> None:
    """Raises SourceError where a source is no longer what `facts` say it was when its key was made."""
    for source in recipe.sources:
        if sources.facts(source, recipe.languages) != facts[source]:
            raise SourceError(f"{printable(source)}: changed while it was read; run again when nothing writes to it")


def _split(found: Iterator[Found], folder: Path, prefix: str) -> int:
    """Each row into the file it belongs to; a prefix keeps the ids of several sources apart. Returns the rows."""
    done = Count("ingest: reads")
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for name, row in done.over(found):
            if name not in files:
                files[name] = stack.enter_context((folder / f"{name}.jsonl").open("wb"))
            row = {**row, "id": prefix + row["id"]} if prefix else row
            files[name].write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return done.done


def _mix(folder: Path, parts: Sequence[Path], weights: Mapping[str, float], seed: int) -> dict[str, int]:
    """Joins the parts of each file; returns how many rows the mixture left out, by file.

    Each source gives whole groups, picked by their hash, until the bytes that it has in a file stand to those of the
    others as the weights say; the source that is scarcest for its weight gives all.
    """
    left_out: Counter[str] = Counter()
    for name in FILES:
        held = {source: part / f"{name}.jsonl" for source, part in zip(weights, parts, strict=True)}
        sizes = {source: path.stat().st_size for source, path in held.items() if path.exists()}
        if len(sizes) == 1:
            held[next(iter(sizes))].replace(folder / f"{name}.jsonl")
        elif sizes:
            scale = min(size / weights[source] for source, size in sizes.items())
            with (folder / f"{name}.jsonl").open("wb") as file:
                for source, size in sizes.items():
                    given, others = _give(held[source], file, scale * weights[source] / size, seed)
                    left_out[name] += others
                    if not given:
                        what = f"its weight of {weights[source]:g} leaves no row of {name}"
                        logger.warning("%s: %s", printable(source), what)
    return dict(left_out)


def _give(path: Path, file: BinaryIO, share: float, seed: int) -> tuple[int, int]:
    """Writes the rows of whole groups, about that share of them; returns how many, and how many others there are."""
    given = others = 0
    for row in read(path):
        name = row["group"] or row["record"]
        if share >= 1 or int(prose.place(seed, f"mixture {name}")[:13], 16) < share * 16**13:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            given += 1
        else:
            others += 1
    return given, others


def _as_text(folder: Path) -> Iterator[Row]:
    """Instructions alone must do as text where there is no other: a tokenizer and a model need some."""
    for name, answer in (("instructions", "response"), ("preferences", "chosen"), ("labels", "response")):
        path = folder / f"{name}.jsonl"
        for row in read(path) if path.exists() else ():
            text = f"{row['prompt'] or ''}\n{row[answer] or ''}"
            yield {**row, "id": f"text:{row['id']}", "domain": row["kind"], "text": text}
