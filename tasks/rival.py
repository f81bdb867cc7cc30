"""What is known of one model on the held-out items: all that the gate compares, of a candidate as of a champion."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks.errors import RegistryError

METRICS, ITEMS, TEXTS, FIGURES = "metrics.json", "items.jsonl", "texts.jsonl", "figures.json"
REPORT = (METRICS, ITEMS, TEXTS)  # the files of an evaluation report that the gate reads


class Rival(BaseModel):
    """A model's scores, item by item, as its evaluation or a row of a report has them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    yardstick: str = Field(description="Digest of what it was measured by: items, texts, judge, scoring code.")
    items: dict[str, dict[str, float]] = Field(description="By the item's id: each metric of its answer.")
    texts: dict[str, float] = Field(description="By the document's id: bits per byte.")
    parameters: int | None = Field(description="How many the model has; none for a rule.")

    def without(self, items: Iterable[str], texts: Iterable[str]) -> "Rival":
        """The same but for some items and documents."""
        gone = frozenset(items), frozenset(texts)
        left = {each: scores for each, scores in self.items.items() if each not in gone[0]}
        read = {each: bits for each, bits in self.texts.items() if each not in gone[1]}
        return self.model_copy(update={"items": left, "texts": read})


def of_model(evaluation: Path) -> Rival:
    """The model that an evaluation of its own measured: the folder of a step `evaluate/<row>`."""
    figures = _json(evaluation, FIGURES)
    return Rival(
        yardstick=_yardstick(figures, evaluation),
        items={item["id"]: _numbers(item["scores"]) for item in _lines(evaluation / ITEMS)},
        texts={text["id"]: text["bits_per_byte"] for text in figures["texts"]},
        parameters=figures["parameters"],
    )


def of_row(report: Path, row: str) -> Rival:
    """A row of a report: the folder of a step `evaluate/compare`, or one that holds its REPORT files.

    Raises RegistryError where there is no such row, or the report was made before there were yardsticks.
    """
    metrics = _json(report, METRICS)
    yardstick = _yardstick(metrics, report)
    items = sorted(_lines(report / ITEMS), key=lambda item: item["id"])
    if not items or row not in items[0]["scores"]:
        known = sorted(items[0]["scores"]) if items else []
        raise RegistryError(f"the evaluation at {report} has no row {row!r}, only {known}; name one of them")
    return Rival(
        yardstick=yardstick,
        items={item["id"]: _numbers(item["scores"][row]) for item in items},
        texts={
            text["id"]: text["bits_per_byte"][row] for text in _lines(report / TEXTS) if row in text["bits_per_byte"]
        },
        parameters=metrics["parameters"].get(row),
    )


def has_row(report: Path, row: str) -> bool:
    """Whether a report has a row of this name."""
    first = next(_lines(report / ITEMS), None)
    return first is not None and row in first["scores"]


def yardstick(report: Path) -> str:
    """The digest of what the rows of a report were measured by. Scores compare only where it is the same."""
    return _yardstick(_json(report, METRICS), report)


def _yardstick(figures: Mapping[str, Any], folder: Path) -> str:
    if "yardstick" not in figures:
        raise RegistryError(f"the evaluation at {folder} was made by older code and says not what it measured by; "
                            "run the evaluation again")  # fmt: skip
    return str(figures["yardstick"])


def _json(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _numbers(scores: Mapping[str, float | None]) -> dict[str, float]:
    """JSON has no word for NaN but null."""
    return {name: math.nan if value is None else value for name, value in scores.items()}


def finite(*values: float | None) -> bool:
    """Whether all of them are numbers."""
    return all(value is not None and math.isfinite(value) for value in values)
