"""Reads every source into candidate rows, one file per kind, and mixes sources by their weights."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from models import prose
from tasks import sources
from tasks.cut import Cut, Found
from tasks.errors import SourceError
from tasks.rows import Row, read, write

if TYPE_CHECKING:
    from tasks.data import IngestRecipe

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
    left_out = _mix(folder, parts, list(recipe.sources.values()), recipe.seed)
    shutil.rmtree(folder / "parts")
    if not (folder / "text.jsonl").exists():
        write(folder / "text.jsonl", _as_text(folder))
    rows = {
        name: sum(1 for _ in read(folder / f"{name}.jsonl")) for name in FILES if (folder / f"{name}.jsonl").exists()
    }
    return {"rows": rows, **({"left_out_by_the_mixture": left_out} if left_out else {})}


def _split(found: Iterator[Found], folder: Path, prefix: str) -> int:
    """Each row into the file it belongs to; a prefix keeps the ids of several sources apart. Returns the rows."""
    count = 0
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for name, row in found:
            count += 1
            if name not in files:
                files[name] = stack.enter_context((folder / f"{name}.jsonl").open("wb"))
            row = {**row, "id": prefix + row["id"]} if prefix else row
            files[name].write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return count


def _mix(folder: Path, parts: Sequence[Path], weights: Sequence[float], seed: int) -> dict[str, int]:
    """Joins the parts of each file; returns how many rows the mixture left out, by file.

    Each source gives whole groups, picked by their hash, until the bytes that it has in a file stand to those of the
    others as the weights say; the source that is scarcest for its weight gives all.
    """
    left_out: Counter[str] = Counter()
    for name in FILES:
        held = [(part / f"{name}.jsonl", weight) for part, weight in zip(parts, weights, strict=True)]
        held = [(path, weight) for path, weight in held if path.exists()]
        if len(held) == 1:
            held[0][0].replace(folder / f"{name}.jsonl")
        elif held:
            scale = min(path.stat().st_size / weight for path, weight in held)
            shares = {path: scale * weight / path.stat().st_size for path, weight in held}
            before = sum(1 for path in shares for _ in read(path))
            left_out[name] = before - write(folder / f"{name}.jsonl", _picked(shares, seed))
    return dict(left_out)


def _picked(shares: Mapping[Path, float], seed: int) -> Iterator[Row]:
    for path, share in shares.items():
        for row in read(path):
            name = row["group"] or row["record"]
            if share >= 1 or int(prose.place(seed, f"mixture {name}")[:13], 16) < share * 16**13:
                yield row


def _as_text(folder: Path) -> Iterator[Row]:
    """Instructions alone must do as text where there is no other: a tokenizer and a model need some."""
    for name, answer in (("instructions", "response"), ("preferences", "chosen"), ("labels", "response")):
        path = folder / f"{name}.jsonl"
        for row in read(path) if path.exists() else ():
            text = f"{row['prompt'] or ''}\n{row[answer] or ''}"
            yield {**row, "id": f"text:{row['id']}", "domain": row["kind"], "text": text}
