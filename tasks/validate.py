"""Validates every file of candidate rows: the good ones go on, the others to quarantine with their reason."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import orjson

from models.formats import printable
from models.hashes import Seen
from tasks import data_docs, facts, progress, readers, sources, steps, validation, validation_page
from tasks.errors import DataValidationError, SourceError
from tasks.rows import Row, blocks, count, read, read_blocks, write_json
from tasks.suites import PARTS, Bounds

if TYPE_CHECKING:
    from tasks.data import ValidateRecipe

INTERNAL = {"lead", "choices", "people", "holdout"}  # for the checks and the split, no part of a row that is shown


def validate(source: Path, folder: Path, recipe: "ValidateRecipe") -> dict[str, Any]:
    """Writes the valid rows of each file, `quarantine.jsonl`, `validation.json` and `.html`, and Great
    Expectations' Data Docs below `log/`; returns the counts.

    Raises DataValidationError where more is wrong than may be left out.
    """
    reports: dict[str, Any] = {}
    scrubbed: Counter[str] = Counter()
    docs = folder / steps.UNHASHED / "data-docs"
    docs.mkdir(parents=True)
    with (folder / "quarantine.jsonl").open("wb") as quarantine:
        for path in sorted(source.glob("*.jsonl")):
            kind = path.stem
            judge = validation.Judge(kind, bounds(recipe), held_out(kind, read(path, holding=b'"holdout":"given"')))
            done = progress.Count(f"{kind}: validates", count(path))
            with (folder / path.name).open("wb") as valid:
                for block in read_blocks(path):
                    rows = scrub(kind, block, scrubbed) if recipe.scrub else block
                    broken = judge.look(rows)
                    for index, row in enumerate(rows):
                        reason = broken.get(index)
                        out = row if reason is None else quarantined(kind, reason, row)
                        (valid if reason is None else quarantine).write(
                            orjson.dumps(out, option=orjson.OPT_APPEND_NEWLINE)
                        )
                    done.add(len(block))
            reports[kind] = judge.report()
            (docs / f"{kind}.html").write_text(data_docs.page(kind, judge.rules, reports[kind]), encoding="utf-8")
            try:
                validation.refuse(kind, reports[kind], on_failure=recipe.on_failure)
            except DataValidationError:
                progress.publish("validation", validation_page.markdown(reports), "Validation of the data")
                raise
    write_json(folder / "validation.json", reports)
    (folder / "validation.html").write_text(validation_page.page(reports), encoding="utf-8")
    return {**_summary(reports), **({"scrubbed": dict(sorted(scrubbed.items()))} if recipe.scrub else {})}


def bounds(recipe: "ValidateRecipe") -> Bounds:
    """The limits of the suites that the recipe asks for."""
    return Bounds(
        lead_words=recipe.lead_words, description_words=recipe.description_words,
        characters=(recipe.least_characters, recipe.most_characters), tokens=(recipe.least_tokens, recipe.most_tokens),
        script=recipe.script, repetition=recipe.most_repetition, tolerated=recipe.tolerated,
    )  # fmt: skip


def held_out(kind: str, rows: Iterator[Row]) -> np.ndarray:
    """The sorted content hashes of the rows whose source puts them on a held-out side; one more pass over the file."""
    seen = Seen()
    for block in blocks(row for row in rows if row.get("holdout") == "given" and row["side"] != "train"):
        seen.again(facts.content_hashes(block, facts.columns_of(kind, block)[1]))
    return seen.distinct()


def scrub(kind: str, rows: Sequence[Row], counts: Counter[str]) -> list[Row]:
    """The rows with personal data and secrets replaced; `counts` grows by what was found."""
    from models import privacy

    parts, _ = facts.columns_of(kind, rows)
    clean = {}
    for part, texts in parts.items():
        replaced, found = privacy.scrub(texts)
        counts.update(found)
        clean[part] = replaced.to_pylist()
    return [{**row, **{part: clean[part][index] for part in PARTS[kind]}} for index, row in enumerate(rows)]


def quarantined(file: str, reason: str, row: Row) -> Row:
    """A row that was left out, with the reason."""
    return {"file": file, "reason": reason, "row": {name: row[name] for name in row if name not in INTERNAL}}


def _summary(reports: dict[str, Any]) -> dict[str, Any]:
    return {
        "rows": {name: report["rows"] for name, report in reports.items()},
        "kept": {name: report["kept"] for name, report in reports.items()},
        "quarantined": {name: report["quarantined"] for name, report in reports.items()},
        "warnings": [
            entry["reason"]
            for report in reports.values()
            for entry in report["expectations"]
            if entry["severity"] == "warning" and not entry["success"]
        ],
    }


def examine(where: Path, kind: str, limits: Bounds, quarantine: Path | None = None) -> dict[str, Any]:
    """Judges a file or folder as people have it: `success`, `rows` and every expectation with what it found.

    With `quarantine`, broken rows are written there with their reason. Raises SourceError where the files cannot be
    read as that kind.
    """
    files = readers.data_files(where)
    holdouts = sources.holdouts(files)
    apart = [name for name in files if holdouts[name].get("side", "train") != "train"]

    def rows(names: Iterable[str]) -> Iterator[Row]:
        for name in names:
            for row in readers.rows(files[name], name, kind):
                if apart:
                    row.update(holdouts[name])
                if "record" in row:
                    row["id"] = row["record"]
                yield row

    judges: dict[str, validation.Judge] = {}
    done = progress.Count(f"{where.name}: validates")
    with _left_out(quarantine, files.values()) if quarantine else nullcontext() as target:
        for of_kind, block in _by_suite(kind, rows(files)):
            if of_kind not in judges:
                held = held_out(of_kind, (row for row in rows(apart) if _suite_of(kind, row) == of_kind))
                judges[of_kind] = validation.Judge(of_kind, limits, held)
            broken = judges[of_kind].look(block)
            done.add(len(block))
            if target:
                lines = (quarantined(of_kind, broken[i], block[i]) for i in sorted(broken))
                target.writelines(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
    reports = [judge.report() for judge in judges.values()] or [validation.Judge(kind, limits).report()]
    return {
        "success": all(report["success"] for report in reports),
        "rows": sum(report["rows"] for report in reports),
        "kept": sum(report["kept"] for report in reports),
        "expectations": [entry for report in reports for entry in report["expectations"]],
    }


@contextmanager
def _left_out(path: Path, read: Iterable[Path]) -> Iterator[BinaryIO]:
    """A file for the broken rows, renamed into place when it is whole. Raises SourceError where it cannot be there."""
    if path.exists() and any(path.samefile(other) for other in read):
        raise SourceError(f"{printable(str(path))}: is itself validated; name another file for the broken rows")
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else "there is no such folder to write to"
        raise SourceError(f"{printable(str(path))}: {problem}; name a file for the broken rows")
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _by_suite(kind: str, rows: Iterator[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Blocks of rows with the suite that they belong to: single labelled answers are not pairs."""
    for block in blocks(rows):
        if kind != "preferences":
            yield kind, block
            continue
        for of_kind in sorted({_suite_of(kind, row) for row in block}):
            yield of_kind, [row for row in block if _suite_of(kind, row) == of_kind]


def _suite_of(kind: str, row: Row) -> str:
    return "labels" if kind == "preferences" and "label" in row else kind
