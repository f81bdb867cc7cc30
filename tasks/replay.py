"""What a model learns next: the rows that it has not seen, and some of those that it has, lest it forget them.

Continuing with replay costs a fraction of a training from scratch and comes close to it (Ibrahim et al. 2024, "Simple
and Scalable Strategies to Continually Pre-train Large Language Models", arXiv 2403.08763).
"""

import heapq
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import steps
from tasks.artifacts import Dataset
from tasks.rows import Row, read, write, write_json

STAGE = "replay"
KINDS: Mapping[str, tuple[str, ...]] = {  # what makes a row of each kind another one
    "text": ("text",),
    "instructions": ("history", "prompt", "response"),
    "preferences": ("history", "prompt", "chosen", "rejected"),
}
HELD_OUT = ("validation", "test")
logger = logging.getLogger("evergreen.replay")


class ReplayRecipe(BaseModel):
    """How much of what the model has seen is read again beside the new."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(
        0.25, ge=0, le=1, description="Of the training rows of each kind that the data hold and the model has seen."
    )
    least: float = Field(
        0.0, ge=0, lt=1,
        description="Replay makes up at least this share of the characters that are read: rows that only the earlier "
        "data hold fill it up. 0: none of those; 0.05 for text like the earlier one, 0.25 to 0.5 for another kind.",
    )  # fmt: skip
    seed: int = Field(1, ge=0, description="Of their choice.")


def step(recipe: ReplayRecipe, dataset: str, earlier: str) -> steps.Step:
    """`earlier` is the key of the data that the champion was trained on; empty where they are lost."""
    inputs = {"dataset": dataset, **({"earlier": earlier} if earlier else {})}
    return steps.Step(stage=STAGE, name="dataset", recipe=recipe, inputs=inputs, modules=("tasks.rows",))


@task(task_run_name="choose what is learnt", cache_policy=NO_CACHE)
def mix(dataset: Dataset, earlier: Dataset | None, recipe: ReplayRecipe) -> Dataset:
    """A data set whose training side holds the rows that `earlier` lacks, and a replay of those that it has.

    Of the rows that both have it replays `share`; rows that only `earlier` has follow where the replay is less than
    `least` of all characters, spread evenly over the others. The held-out sides are those of `dataset`, and what stands
    on them is not replayed. `summary` counts per kind `new`, `replayed` and `gone`: rows that only `earlier` has.
    """

    def build(folder: Path) -> dict[str, Any]:
        shutil.copytree(dataset.path, folder, dirs_exist_ok=True, ignore=_beside)
        before = earlier.path if earlier else None
        counts = {kind: _mix(kind, dataset.path, before, folder, recipe) for kind in KINDS}
        write_json(folder / "counts.json", {"files": counts})
        return {each: {kind: count[each] for kind, count in counts.items()} for each in ("new", "replayed", "gone")}

    if earlier is None:
        logger.warning("the data that the champion was trained on are lost: every row counts as new")
    return steps.materialise(step(recipe, dataset.key, earlier.key if earlier else ""), Dataset, build)


def _beside(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name in ("train.jsonl", "counts.json", steps.MANIFEST, steps.UNHASHED)}


def _mix(kind: str, now: Path, before: Path | None, folder: Path, recipe: ReplayRecipe) -> dict[str, int]:
    source, target = now / kind / "train.jsonl", folder / kind / "train.jsonl"
    seen = _contents(before / kind / "train.jsonl", kind) if before else set()
    if not source.exists():
        return {"new": 0, "replayed": 0, "gone": len(seen)}
    rows = [(_content(row, kind), _characters(row, kind)) for row in read(source)]
    known = [content for content, _ in rows if content in seen]
    chosen = set(heapq.nsmallest(round(recipe.share * len(known)), known, key=lambda each: _place(each, recipe.seed)))
    new = [length for content, length in rows if content not in seen]
    replayed = [length for content, length in rows if content in chosen]
    gone = seen - set(known)
    # r + x = least * (n + r + x), of n new and r replayed characters, gives x: those that are missing
    missing = recipe.least / (1 - recipe.least) * sum(new) - sum(replayed)
    more = _more(kind, now, before, gone, missing, recipe.seed) if before and missing > 0 else set()
    kept = (row for row in read(source) if (c := _content(row, kind)) in chosen or c not in seen)
    added = _once(before / kind / "train.jsonl", kind, more) if before and more else iter(())
    write(target, _spread(kept, len(new) + len(replayed), added, len(more)))
    return {"new": len(new), "replayed": len(replayed) + len(more), "gone": len(gone)}


def _more(kind: str, now: Path, before: Path, gone: set[int], missing: float, seed: int) -> set[int]:
    """Rows of the earlier data alone with so many characters together, or all; none of the held-out sides."""
    held = set().union(*(_contents(now / kind / f"{side}.jsonl", kind) for side in HELD_OUT))
    lengths = {
        content: _characters(row, kind)
        for row in read(before / kind / "train.jsonl")
        if (content := _content(row, kind)) in gone and content not in held
    }
    chosen: set[int] = set()
    for content in sorted(lengths, key=lambda each: _place(each, seed)):
        if missing <= 0:
            break
        chosen.add(content)
        missing -= lengths[content]
    return chosen


def _once(path: Path, kind: str, wanted: set[int]) -> Iterator[Row]:
    left = set(wanted)
    for row in read(path):
        if (content := _content(row, kind)) in left:
            left.remove(content)
            yield row


def _spread(rows: Iterable[Row], count: int, more: Iterator[Row], added: int) -> Iterator[Row]:
    """`count` rows with `added` others at even distances among them: whoever stops early has read of both."""
    for number, row in enumerate(rows):
        yield row
        yield from islice(more, added * (number + 1) // count - added * number // count)


def _characters(row: Row, kind: str) -> int:
    return sum(len(str(row.get(column, ""))) for column in KINDS[kind])


def _contents(path: Path, kind: str) -> set[int]:
    return {_content(row, kind) for row in read(path)} if path.exists() else set()


def _content(row: Row, kind: str) -> int:
    """A row by what is learned from it: the same text under another id is no new row."""
    import xxhash

    return xxhash.xxh3_64_intdigest(repr([row.get(column) for column in KINDS[kind]]).encode("utf-8", "surrogatepass"))


def _place(content: int, seed: int) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(content.to_bytes(8, "little"), seed=seed)
