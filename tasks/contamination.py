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


def examine(models: Mapping[str, Artifact], dataset: Dataset, items: Sequence[Sequence[str]]) -> dict[str, Any]:
    """For each row: how many items stand in its training data, examples, the data looked at, and what could not be.

    `items` are the passages of each held-out item, `models` the evaluations. The data are the present data set's
    training side and that of every other data set behind the model that still lies in the store; what runs of words
    are contamination, the present data set's recipe says.
    """
    recipe = (steps.read_manifest(dataset.path) or {}).get("identity", {}).get("recipe", {})
    runs = {name: recipe.get(name, default) for name, default in RUNS.items()}
    seen: dict[Path, dict[int, str]] = {}
    return {row: _of_row(artifact.key, dataset, items, runs, seen) for row, artifact in models.items()}


def _of_row(
    key: str,
    dataset: Dataset,
    items: Sequence[Sequence[str]],
    runs: Mapping[str, int],
    seen: dict[Path, dict[int, str]],
) -> dict[str, Any]:
    folders, unchecked = data_behind(key)
    found: dict[int, str] = {}
    for folder in dict.fromkeys([dataset.path, *folders]):
        if folder not in seen:
            seen[folder] = shared(folder, items, **runs)
        found = seen[folder] | found
    data = [dataset.key, *(folder.name for folder in folders if folder != dataset.path)]
    examples = [example for example in dict.fromkeys(found.values()) if example][:EXAMPLES]
    return {"items": len(items), "contaminated": len(found), "examples": examples, "data": data, "unchecked": unchecked}


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
    folders = [home() / "store" / "data" / each for each, m in known.items() if m["identity"]["stage"] == "data"]
    return folders, unchecked


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
    for name, parts in CONTENT.items():
        path = data / name / "train.jsonl"
        for row in read(path) if path.exists() else ():
            if (row.get("domain") or row["kind"]) != "code":
                yield from (row[part] for part in parts)
