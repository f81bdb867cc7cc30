"""Takes out of the training side what also stands in a held-out row or a benchmark item."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import mining, readers
from tasks.records import records
from tasks.rows import batches
from tasks.sheets import CONTENT, TRAIN, Sheet
from tasks.splits import SPLITS

if TYPE_CHECKING:
    from models.contamination import Contamination
    from tasks.data import DatasetRecipe

EXAMPLES = 5
LEAST_WORDS = 8  # shorter items are common property


def benchmark_facts(benchmarks: Sequence[str]) -> dict[str, Any]:
    """The digests of the benchmark files, which decide what is contamination. Raises SourceError for a missing one."""
    return {where: mining.folder_facts(_benchmark_files(where)) for where in benchmarks}


def _benchmark_files(where: str) -> dict[str, Path]:
    return readers.data_files(readers.located(where))


def decontaminate(sheets: Mapping[str, Sheet], recipe: "DatasetRecipe", scratch: Path) -> dict[str, Any]:
    """Takes what also stands in a held-out row or a benchmark item out of the training side.

    Sentences are cut from texts; instructions and pairs are dropped. What stands in many training rows is boilerplate.
    Returns what was protected, and for each file how much was found, with examples.
    """
    from models.contamination import Contamination

    least = min(LEAST_WORDS, recipe.overlap_words)
    with TemporaryDirectory(dir=scratch) as folder:
        guard = Contamination(Path(folder), width=recipe.overlap_words, least_words=least, common=recipe.common_runs)
        protected = {
            source: sum(guard.protect(batch, source=source) for batch in batches(texts))
            for source, texts in _protected(sheets, recipe)
        }
        quoting = {name: _quoting(sheet) for name, sheet in sheets.items()}
        for name, sheet in sheets.items():
            for batch in batches(text for _, text in sheet.passages(quoting[name], "counts overlaps")):
                guard.count(batch)
        found = {name: _cut_out(sheets[name], of_sheet, guard) for name, of_sheet in _suspects(quoting, guard)}
    return {"protected": protected, "found": found}


def _protected(sheets: Mapping[str, Sheet], recipe: "DatasetRecipe") -> Iterator[tuple[str, Iterator[str]]]:
    for name, sheet in sheets.items():
        for side in ("test", "validation"):
            numbers = sheet.on(SPLITS.index(side))
            yield f"{name}/{side}", (text for _, text in sheet.passages(numbers, f"protects {side}"))
    for where in recipe.benchmarks:
        for name, path in _benchmark_files(where).items():
            texts = (text for _, record in records(path) for text in _strings(record))
            yield f"{Path(where).resolve().name}/{name}", texts


def _strings(value: Any) -> Iterator[str]:
    """Every text in a record, whatever its format; without recursion, for it may be nested as deep as JSON may be."""
    waiting = [value]
    while waiting:
        held = waiting.pop()
        if isinstance(held, str):
            yield held
        elif isinstance(held, Mapping | list):
            waiting += reversed(list(held.values()) if isinstance(held, Mapping) else held)


def _quoting(sheet: Sheet) -> np.ndarray:
    """The training rows that can quote: lines of code are no quotations."""
    numbers = sheet.on(TRAIN)
    return numbers[sheet.kind[numbers] != sheet.kinds["code"]] if "code" in sheet.kinds else numbers


def _suspects(quoting: Mapping[str, np.ndarray], guard: "Contamination") -> Iterator[tuple[str, np.ndarray]]:
    """Of the rows whose passages were counted, in the same order, those that share something."""
    suspects, first = guard.suspects(), 0
    for name, numbers in quoting.items():
        parts = len(CONTENT[name])
        last = first + parts * len(numbers)
        mine = suspects[slice(*np.searchsorted(suspects, (first, last)))]
        yield name, numbers[np.unique((mine - first) // parts)]
        first = last


def _cut_out(sheet: Sheet, suspects: np.ndarray, guard: "Contamination") -> dict[str, Any]:
    from models.contamination import cut

    sources: Counter[str] = Counter()
    examples: list[dict[str, str]] = []
    sentences = 0
    passages = sheet.passages(suspects, "finds overlaps")
    for batch in batches(passages, size=lambda passage: len(passage[1])):
        for overlap in guard.find([text for _, text in batch]):
            number, text = batch[overlap.document]
            span = overlap.spans[0]
            sources[span.source] += 1
            if len(examples) < EXAMPLES:
                examples.append({"shared": overlap.example, "stands_in": span.source})
            left = ""
            if sheet.name == "text":
                left, removed = cut(text, overlap.spans)
                sheet.cuts.add(number, left)
                sentences += len(removed)
            if not left:
                sheet.drop(number, f"stands in a held-out or benchmark item [{span.source}, {span.item}]")
    return {"passages": sources.total(), "sentences_cut": sentences, "by_source": dict(sources), "examples": examples}
