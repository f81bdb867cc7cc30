"""Whether what a model is measured on stands in what it was trained on, in any data set behind it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks import catalogue, steps
from tasks.artifacts import Artifact, Dataset
from tasks.decontamination import EXAMPLES, LEAST_WORDS
from tasks.lineage import ancestors
from tasks.rows import batches, read
from tasks.settings import home
from tasks.sheets import CONTENT

HELD_OUT = "held-out"
RUNS = {"overlap_words": 13, "common_runs": 10}  # of a data set that does not say


Passages = Mapping[str, Sequence[str]]  # of each held-out item or document, by its id


def examine(models: Mapping[str, Artifact], dataset: Dataset, items: Passages, texts: Passages) -> dict[str, Any]:
    """For each row what of the held-out items and documents stands in its training data, and what could not be seen.

    `contaminated` counts what the present data set's training side holds, `earlier` what only that of another data set
    behind the model does, where it still lies in the store; `left_out` names both. What runs of words are
    contamination, the present data set's recipe says.
    """
    recipe = (steps.read_manifest(dataset.path) or {}).get("identity", {}).get("recipe", {})
    runs = {name: recipe.get(name, default) for name, default in RUNS.items()}
    passages, seen = [*items.values(), *texts.values()], dict[Path, dict[int, str]]()

    def met(folder: Path) -> dict[int, str]:
        if folder not in seen:
            seen[folder] = shared(folder, passages, **runs)
        return seen[folder]

    def of_row(key: str) -> dict[str, Any]:
        folders, unchecked = data_behind(key)
        now, before = met(dataset.path), [folder for folder in folders if folder != dataset.path]
        found = {number: run for folder in (*reversed(before), dataset.path) for number, run in met(folder).items()}
        ids = [*items, *texts]
        return {
            "items": len(items),
            "texts": len(texts),
            "contaminated": len(now),
            "earlier": len(found) - len(now),
            "left_out": {
                "items": [ids[number] for number in sorted(found) if number < len(items)],
                "texts": [ids[number] for number in sorted(found) if number >= len(items)],
            },
            "examples": [run for run in dict.fromkeys(found.values()) if run][:EXAMPLES],
            "data": [dataset.key, *(folder.name for folder in before)],
            "unchecked": unchecked,
        }

    return {row: of_row(artifact.key) for row, artifact in models.items()}


def data_behind(key: str) -> tuple[list[Path], list[str]]:
    """The data sets in the store that a step was made from, and a sentence for each step that is there no more.

    A model that was trained further from a registered one has the data of both behind it.
    """
    waiting, known, missing = {key}, dict[str, dict[str, Any]](), set[str]()
    while waiting:
        known |= {manifest["key"]: manifest for manifest in ancestors(sorted(waiting))}
        parents = {parent for made in known.values() for parent in made["identity"]["inputs"].values()}
        lost = sorted((parents | waiting) - known.keys() - missing)
        missing |= set(lost)
        waiting = {origin for each in lost if (origin := catalogue.origin(each))} - known.keys() - missing
    gone = sorted(each for each in missing if not catalogue.origin(each))
    unchecked = [f"step {each} is not in the store; the data behind it were not looked at" for each in gone]
    folders = [home() / "store" / made["identity"]["stage"] / each for each, made in known.items()]
    return [folder for folder in folders if any(_sides(folder))], unchecked


def _sides(data: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The training files of a data set, whatever stage made it, with the fields that hold their content."""
    for name, parts in CONTENT.items():
        path = data / name / "train.jsonl"
        if path.exists():
            yield path, parts


def shared(data: Path, items: Sequence[Sequence[str]], *, overlap_words: int, common_runs: int) -> dict[int, str]:
    """The items that share a run of words with a data set's training side, and of some of them the run."""
    from models.contamination import Contamination

    owners = [number for number, passages in enumerate(items) for _ in passages]
    least = min(LEAST_WORDS, overlap_words)
    with TemporaryDirectory(prefix="evergreen-") as folder:
        guard = Contamination(Path(folder), width=overlap_words, least_words=least, common=common_runs)
        for batch in batches(passage for passages in items for passage in passages):
            guard.protect(batch, source=HELD_OUT)
        for batch in batches(_training(data)):
            guard.count(batch)
        found = {owners[passage]: "" for _, passage in guard.repeated()}
        suspects = set(guard.suspects()[:EXAMPLES].tolist())
        for overlap in guard.find([text for number, text in enumerate(_training(data)) if number in suspects]):
            found[owners[overlap.spans[0].item]] = overlap.example
    return found


def _training(data: Path) -> Iterator[str]:
    """Each passage of the training side but code, whose lines are no quotations."""
    for path, parts in _sides(data):
        for row in read(path):
            if (row.get("domain") or row["kind"]) != "code":
                yield from (row[part] for part in parts)
