"""What a champion learns next: the rows that it has not seen, and some of those that it has, lest it forget them.

Continuing with replay costs a fraction of a training from scratch and comes close to it (Ibrahim et al. 2024, "Simple
and Scalable Strategies to Continually Pre-train Large Language Models", arXiv 2403.08763).
"""

import heapq
import logging
import shutil
from collections.abc import Mapping
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
logger = logging.getLogger("evergreen.replay")


class ReplayRecipe(BaseModel):
    """How much of what the champion has seen is read again beside the new."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(0.25, ge=0, le=1, description="Of the training rows of each kind that the champion has seen.")
    seed: int = Field(1, ge=0, description="Of their choice.")


def step(recipe: ReplayRecipe, dataset: str, earlier: str) -> steps.Step:
    """`earlier` is the key of the data that the champion was trained on; empty where they are lost."""
    inputs = {"dataset": dataset, **({"earlier": earlier} if earlier else {})}
    return steps.Step(stage=STAGE, name="dataset", recipe=recipe, inputs=inputs, modules=("tasks.rows",))


@task(task_run_name="choose what is learnt", cache_policy=NO_CACHE)
def mix(dataset: Dataset, earlier: Dataset | None, recipe: ReplayRecipe) -> Dataset:
    """A data set whose training side holds the rows that `earlier` lacks, and `share` of the others.

    The held-out sides are those of `dataset`. `summary` counts per kind `new`, `replayed` and `gone`: rows that only
    `earlier` has, of which a continued model keeps what it learned.
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
    if not source.exists():
        return {"new": 0, "replayed": 0, "gone": 0}
    seen = _contents(before / kind / "train.jsonl", kind) if before else set()
    known = [content for row in read(source) if (content := _content(row, kind)) in seen]
    chosen = set(heapq.nsmallest(round(recipe.share * len(known)), known, key=lambda each: _place(each, recipe.seed)))
    written = write(target, (row for row in read(source) if (c := _content(row, kind)) in chosen or c not in seen))
    new = sum(_content(row, kind) not in seen for row in read(source))
    return {"new": new, "replayed": written - new, "gone": len(seen - set(known))}


def _contents(path: Path, kind: str) -> set[int]:
    return {_content(row, kind) for row in read(path)} if path.exists() else set()


def _content(row: Row, kind: str) -> int:
    """A row by what is learned from it: the same text under another id is no new row."""
    import xxhash

    return xxhash.xxh3_64_intdigest(repr([row.get(column) for column in KINDS[kind]]).encode("utf-8", "surrogatepass"))


def _place(content: int, seed: int) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(content.to_bytes(8, "little"), seed=seed)
