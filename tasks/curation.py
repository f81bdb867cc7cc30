"""From valid rows to the files of the data set: sides first, then what would let one side know another, then order.

Rows stay on disk. In memory are a few bytes for each: its side, whether and why it was dropped, its place in the order.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import orjson

from tasks import card, ratings
from tasks.decontamination import decontaminate
from tasks.progress import Count
from tasks.rows import Row, RowFile, batches, read, write_json
from tasks.sheets import FIELDS, TEST, TRAIN, VALIDATION, Sheet
from tasks.splits import SPLITS, STRADDLING, Sides
from tasks.validate import quarantined

if TYPE_CHECKING:
    from models.duplicates import Sketches
    from tasks.data import DatasetRecipe

PORTION = 4_000_000  # groups that are compared at a time


def curate(valid: Path, folder: Path, recipe: "DatasetRecipe") -> dict[str, Any]:
    """Writes `FILE/{train,validation,test}.jsonl`, `quarantine.jsonl`, `counts.json` and the card; returns the counts.

    Every row is accounted for: rows in = rows out + rows dropped, by reason.
    """
    with TemporaryDirectory(dir=folder, prefix=".") as scratch:
        files = {path.stem: RowFile(path) for path in sorted(valid.glob("*.jsonl")) if path.stem != "quarantine"}
        sides = Sides.of(_told(files, "groups"))
        rated, unpaired = _pairs(files, sides, Path(scratch), recipe.seed)
        sheets = {
            name: Sheet(name, file, sides, recipe.seed, Path(scratch))
            for name, file in _curated(files, Path(scratch)).items()
        }
        _one_side_for_a_group(sheets)
        for sheet in sheets.values():
            _without_near_duplicates(sheet, recipe.duplicate_threshold, Path(scratch))
        contamination = decontaminate(sheets, recipe, Path(scratch))
        for sheet in sheets.values():
            _filter(sheet, recipe)
        if "instructions" in sheets:
            _cap(sheets["instructions"], "reply", recipe.replies)
        with (folder / "quarantine.jsonl").open("wb") as quarantine:
            before = _copy(read(valid / "quarantine.jsonl"), quarantine)
            dropped = _copy((quarantined(*row) for row in unpaired), quarantine)
            for sheet in sheets.values():
                dropped.update(_copy(sheet.dropped(), quarantine))
                sheet.write(folder / sheet.name)
        for name in FIELDS.keys() - sheets.keys():
            _write_empty(folder / name)
        summary = _summary(files, sheets, rated, contamination) | {
            "quarantined": _by_reason(before), "dropped": _by_reason(dropped),
        }  # fmt: skip
    write_json(folder / "counts.json", summary)
    (folder / "README.md").write_text(card.write(summary), encoding="utf-8")
    return summary


def _told(files: Mapping[str, RowFile], doing: str) -> Iterator[Iterable[Row]]:
    for name, file in files.items():
        yield Count(f"{name}: {doing}", len(file)).over(file)


def _curated(files: Mapping[str, RowFile], scratch: Path) -> dict[str, RowFile]:
    """The file of each part of the data set: as it is, or made of ratings and labels."""
    found = {name: files[name] for name in ("text", "instructions") if name in files}
    return {**found, "preferences": RowFile(scratch / "preferences.jsonl")}


def _pairs(
    files: Mapping[str, RowFile], sides: Sides, scratch: Path, seed: int
) -> tuple[list[Row], list[tuple[str, str, Row]]]:
    """Writes all preference pairs: given ones, and those of ratings and labels, paired within a side.

    Returns the rated rows, and what found no partner as (file, reason, row). Ratings and labels must fit in memory.
    """
    made: list[Row] = []
    unpaired: list[tuple[str, str, Row]] = []
    rated, labelled = (list(files[name]) if name in files else [] for name in ("ratings", "labels"))
    for side in (*SPLITS, STRADDLING):
        pairs, single = ratings.pair_ratings([row for row in rated if sides.side(row) == side], seed=seed)
        made += pairs
        unpaired += [("ratings", "no partner with the same prompt and length, rated 3 apart", row) for row in single]
        pairs, single = ratings.pair_labels([row for row in labelled if sides.side(row) == side], seed=seed)
        made += pairs
        unpaired += [("labels", "no partner with the same prompt and the other label", row) for row in single]
    with (scratch / "preferences.jsonl").open("wb") as file:
        for rows in (files.get("preferences", ()), made):
            file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    return rated, unpaired


def _one_side_for_a_group(sheets: Mapping[str, Sheet]) -> None:
    """A group that stands on several sides, as sources that come split may have it, keeps the most held-out one."""
    portions = 1 + sum(len(sheet.file) for sheet in sheets.values()) // PORTION
    for portion in range(portions):
        held = {name: np.flatnonzero(sheet.groups() % portions == portion) for name, sheet in sheets.items()}
        groups = np.concatenate([sheet.groups()[held[name]] for name, sheet in sheets.items()])
        codes = np.concatenate([sheet.sides[held[name]] for name, sheet in sheets.items()])
        known, inverse = np.unique(groups, return_inverse=True)
        strictest = np.zeros(len(known), np.int8)
        np.maximum.at(strictest, inverse[codes <= TEST], codes[codes <= TEST])
        ends = np.cumsum([len(numbers) for numbers in held.values()])[:-1]
        for (name, numbers), wanted in zip(held.items(), np.split(strictest[inverse], ends), strict=True):
            _keep_on(sheets[name], numbers, wanted)


def _keep_on(sheet: Sheet, numbers: np.ndarray, wanted: np.ndarray) -> None:
    sides = sheet.sides[numbers]
    for at in np.flatnonzero((sides != wanted) & (sides <= TEST)):
        sheet.drop(int(numbers[at]), f"its group stands on the {SPLITS[wanted[at]]} side")


def _without_near_duplicates(sheet: Sheet, threshold: float, scratch: Path) -> None:
    """Drops from the training side what is near to a held-out row or to an earlier training row of its kind, and from
    validation what is near to a test row. The test side stays as it is, so that its figures stay comparable.
    """
    numbers = np.concatenate([sheet.on(code) for code in (TEST, VALIDATION, TRAIN)])
    test, held = len(sheet.on(TEST)), len(sheet.on(TEST)) + len(sheet.on(VALIDATION))
    kinds = [] if sheet.name == "text" else list(sheet.kinds.values())
    with _sketched(sheet, numbers, threshold, scratch) as sketches:
        _drop_near(sheet, numbers, sketches, range(test, held), range(test), held)
        among = range(held) if len(kinds) > 1 else range(len(numbers))
        _drop_near(sheet, numbers, sketches, range(held, len(numbers)), among, held)
    for kind in kinds if len(kinds) > 1 else ():
        train = sheet.on(TRAIN)
        of_kind = train[sheet.kind[train] == kind]
        with _sketched(sheet, of_kind, threshold, scratch) as sketches:
            _drop_near(sheet, of_kind, sketches, range(len(of_kind)), range(len(of_kind)), 0)


@contextmanager
def _sketched(sheet: Sheet, numbers: np.ndarray, threshold: float, scratch: Path) -> Iterator["Sketches"]:
    from models.duplicates import Sketches

    with TemporaryDirectory(dir=scratch) as folder:
        sketches = Sketches(Path(folder), threshold=threshold)
        for batch in batches(sheet.texts(numbers, "sketches")):
            sketches.add(batch)
        yield sketches


def _drop_near(sheet: Sheet, numbers: np.ndarray, sketches: "Sketches", asked: range, among: range, held: int) -> None:
    """Drops of `asked` what is near to one of `among`; the first `held` rows are held-out ones."""
    progress = Count(f"{sheet.name}: compares", len(asked))
    for match in sketches.near(asked, among, progress=progress.reach):
        other = next(sheet.file.pick([numbers[match.other]]))
        what = "a held-out row" if match.other < held else "an earlier row"
        reason = f"near duplicate of {what} [{other['id']}, {match.similarity:.2f}]"
        sheet.drop(int(numbers[match.document]), reason)


def _filter(sheet: Sheet, recipe: "DatasetRecipe") -> None:
    """Drops training rows that are too short or hold too few letters, where the recipe asks for it."""
    import pyarrow as pa

    from models import quality

    if not recipe.least_words and not recipe.least_letters:
        return
    numbers = sheet.on(TRAIN)
    checks = (
        (quality.words, recipe.least_words, f"fewer than {recipe.least_words} words"),
        (quality.letters, recipe.least_letters, f"less than {recipe.least_letters:.0%} letters, digits and spaces"),
    )
    done = 0
    for batch in batches(sheet.texts(numbers, "filters")):
        for measure, least, reason in checks:
            for index, value in enumerate(measure(pa.array(batch, pa.string())).to_pylist()):
                if value is not None and value < least:
                    sheet.drop(int(numbers[done + index]), reason)
        done += len(batch)


def _cap(sheet: Sheet, kind: str, limit: int) -> None:
    """At most `limit` training rows of a kind (0: all), the first ones in the order."""
    train = sheet.ordered(sheet.on(TRAIN))
    if limit and kind in sheet.kinds:
        for number in train[sheet.kind[train] == sheet.kinds[kind]][limit:]:
            sheet.drop(int(number), f"more than {limit} rows of kind {kind}")


def _copy(rows: Iterable[Row], target: BinaryIO) -> Counter[tuple[str, str]]:
    """Writes quarantined rows and counts them by file and reason."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        target.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        counts[row["file"], row["reason"].partition(" [")[0]] += 1
    return counts


def _write_empty(folder: Path) -> None:
    folder.mkdir()
    for side in SPLITS:
        (folder / f"{side}.jsonl").touch()


def _by_reason(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (file, reason), count in sorted(counts.items()):
        found.setdefault(file, {})[reason] = count
    return found


def _summary(
    files: Mapping[str, RowFile], sheets: Mapping[str, Sheet], rated: Sequence[Row], contamination: Mapping[str, Any]
) -> dict[str, Any]:
    empty: dict[str, dict[str, int]] = {side: {} for side in SPLITS}
    return {
        "files": {name: sheets[name].counts() if name in sheets else empty for name in FIELDS},
        "sources": sorted({(row["source"], row["licence"]) for rows in _told(files, "sources") for row in rows}),
        "contamination": contamination,
        "length_bias": ratings.length_bias(rated),
        "chosen_longer": _chosen_longer(sheets["preferences"]),
    }


def _chosen_longer(sheet: Sheet) -> float:
    """The share of pairs whose chosen text is the longer one, equal ones half; 0 without pairs."""
    kept = np.concatenate([sheet.on(code) for code in (TRAIN, VALIDATION, TEST)])
    longer = 0.0
    for row in sheet.file.pick(kept):
        longer += float(np.sign(len(row["chosen"]) - len(row["rejected"])) / 2 + 0.5)
    return round(longer / len(kept), 6) if len(kept) else 0.0
