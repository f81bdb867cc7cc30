"""The data stage: raw candidate rows, their validation, and the data set made from what is valid."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import steps
from tasks.artifacts import Artifact, Dataset

Row = dict[str, Any]
R = TypeVar("R", bound=BaseModel)
INTERNAL = {
    "lead",
    "choices",
    "people",
    "holdout",
}  # columns for the checks and the split, no part of a row that is shown


class IngestRecipe(BaseModel):
    """What is read, and how it is cut into rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        "builtin:encyclopaedia",
        pattern=r"^(builtin:encyclopaedia|package:[\w.\-]+(,[\w.\-]+)*|path:.+)$",
        description="builtin:encyclopaedia, package:NAME[,NAME...] (functions with docstrings), or path:FOLDER.",
    )
    languages: tuple[Literal["en", "fr", "es"], ...] = Field(
        ("en",), min_length=1, description="Languages of the encyclopaedia's articles: en, fr, es."
    )
    limit: int = Field(
        0, ge=0, description="At most so many articles, speeches, dialogues or files of each source (0: all)."
    )
    prompt_words: int = Field(45, ge=8, le=400, description="Words of an article's opening in a prompt.")
    passage_words: int = Field(
        200, ge=20, le=2000, description="Long documents are cut into passages of about so many words."
    )
    docstrings: int = Field(
        12_000,
        ge=0,
        description="Functions to mine from packages or a folder, the same share of each package (0: all).",
    )
    seed: int = Field(1, ge=0, description="Of every pick and of the order of the rows.")


class ValidateRecipe(BaseModel):
    """What a row must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lead_words: int = Field(12, ge=1, description="Least words of an article's lead.")
    description_words: int = Field(16, ge=1, description="Most words of a short description.")
    on_failure: Literal["quarantine", "stop"] = Field(
        "quarantine", description="What a row that breaks a rule does: leave the data set, or stop the run."
    )


class DatasetRecipe(BaseModel):
    """How valid rows become the data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    duplicate_threshold: float = Field(
        0.7, gt=0, le=1, description="Rows this similar (Jaccard of 5-word shingles) never stand on two sides."
    )
    replies: int = Field(4000, ge=0, description="Most dialogue replies in the training instructions (0: all).")
    seed: int = Field(1, ge=0, description="Of every pick and of the order of the rows.")


class DataRecipe(IngestRecipe, ValidateRecipe, DatasetRecipe):
    """Which data, what is valid, how it is split."""

    def part(self, kind: type[R]) -> R:
        """The fields that one step depends on, so that another field does not change its key."""
        return kind.model_validate({name: getattr(self, name) for name in kind.model_fields})


def plan(recipe: DataRecipe) -> list[steps.Step]:
    """The steps ingest, validate and dataset with their keys, nothing run. Raises SourceError for a missing source."""
    from tasks import sources

    ingest = steps.Step(
        stage="ingest",
        name="rows",
        recipe=recipe.part(IngestRecipe),
        facts=sources.facts(recipe.source, recipe.languages),
        modules=("tasks.sources", "tasks.mining", "models.prose"),
    )
    validate = steps.Step(
        stage="validate",
        name="rows",
        recipe=recipe.part(ValidateRecipe),
        inputs={"rows": ingest.key},
        libraries=("great_expectations",),
        modules=("tasks.validation", "tasks.suites"),
    )
    dataset = steps.Step(
        stage="data",
        name="dataset",
        recipe=recipe.part(DatasetRecipe),
        inputs={"valid": validate.key},
        modules=("tasks.curation", "tasks.card"),
    )
    return [ingest, validate, dataset]


@task(task_run_name="read the source", cache_policy=NO_CACHE)
def ingest_rows(recipe: DataRecipe) -> Artifact:
    """Candidate rows with their provenance, one file per kind."""

    def build(folder: Path) -> dict[str, Any]:
        from tasks import sources

        found = sources.read(**recipe.part(IngestRecipe).model_dump())
        for name, rows in found.items():
            write_rows(folder / f"{name}.jsonl", rows)
        return {"rows": {name: len(rows) for name, rows in found.items()}}

    return steps.materialise(plan(recipe)[0], Artifact, build)


@task(task_run_name="validate the rows", cache_policy=NO_CACHE)
def validate_rows(candidates: Artifact, recipe: DataRecipe) -> Artifact:
    """The rows that pass their suite, `quarantine.jsonl` with the others and why, `validation.json` and `.html`.

    Raises DataValidationError where more is wrong than may be left out.
    """

    def build(folder: Path) -> dict[str, Any]:
        return _validate(candidates.path, folder, recipe.part(ValidateRecipe))

    return steps.materialise(plan(recipe)[1], Artifact, build)


@task(task_run_name="split and curate", cache_policy=NO_CACHE)
def build_dataset(valid: Artifact, recipe: DataRecipe) -> Dataset:
    """Text, instructions and preferences, split by group, with the data card and the quarantine."""

    def build(folder: Path) -> dict[str, Any]:
        return _curate(valid.path, folder, recipe.part(DatasetRecipe))

    return steps.materialise(plan(recipe)[2], Dataset, build)


@task(task_run_name="look for the data set", cache_policy=NO_CACHE)
def find_dataset(recipe: DataRecipe) -> Dataset | None:
    """The data set of this recipe where it lies in the store, or can be had from the version that `data.dvc` names."""
    from tasks import versioning

    step = plan(recipe)[2]
    if steps.status(step).reused:
        return steps.load(step, Dataset)
    return versioning.restore(step)


def _validate(source: Path, folder: Path, recipe: ValidateRecipe) -> dict[str, Any]:
    from tasks import suites, validation

    bounds = suites.Bounds(lead_words=recipe.lead_words, description_words=recipe.description_words)
    reports, quarantined = {}, []
    for path in sorted(source.glob("*.jsonl")):
        rows = read_rows(path)
        verdict = validation.check(path.stem, rows, bounds)
        validation.refuse(path.stem, verdict.report, on_failure=recipe.on_failure)
        reports[path.stem] = verdict.report
        quarantined += [_quarantined(path.stem, verdict.broken[i], rows[i]) for i in sorted(verdict.broken)]
        write_rows(folder / path.name, (row for i, row in enumerate(rows) if i not in verdict.broken))
    write_rows(folder / "quarantine.jsonl", quarantined)
    write_json(folder / "validation.json", reports)
    (folder / "validation.html").write_text(validation.page(reports), encoding="utf-8")
    return {
        "rows": {name: report["rows"] for name, report in reports.items()},
        "kept": {name: report["kept"] for name, report in reports.items()},
        "quarantined": {name: report["quarantined"] for name, report in reports.items()},
        "warnings": [
            entry["reason"]
            for report in reports.values()
            for entry in report["expectations"]
            if entry["level"] == "warning" and not entry["success"]
        ],
    }


def _curate(valid: Path, folder: Path, recipe: DatasetRecipe) -> dict[str, Any]:
    from tasks import card, curation

    files = {path.stem: read_rows(path) for path in sorted(valid.glob("*.jsonl")) if path.stem != "quarantine"}
    before = read_rows(valid / "quarantine.jsonl")
    made = curation.curate(
        files, seed=recipe.seed, threshold=recipe.duplicate_threshold, caps={"reply": recipe.replies}
    )
    for name, sides in made.files.items():
        (folder / name).mkdir()
        for side, rows in sides.items():
            write_rows(folder / name / f"{side}.jsonl", rows)
    pairs = [pair for rows in made.files["preferences"].values() for pair in rows]
    dropped = [_quarantined(*row) for row in made.dropped]
    write_rows(folder / "quarantine.jsonl", before + dropped)
    summary = {
        **made.counts,
        "chosen_longer": _chosen_longer(pairs),
        "quarantined": _by_reason(before),
        "dropped": _by_reason(dropped),
    }
    write_json(folder / "counts.json", summary)
    (folder / "README.md").write_text(card.write(summary), encoding="utf-8")
    return summary


def _chosen_longer(pairs: list[Row]) -> float:
    """The share of pairs whose chosen text is the longer one, after their suite has seen them; 0 without pairs."""
    from tasks import validation

    if not pairs:
        return 0.0
    report = validation.check("preferences", pairs).report
    validation.refuse("preferences", report, on_failure="stop")
    return next(entry["observed"] for entry in report["expectations"] if entry["column"] == "longer")


def _by_reason(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row["file"], Counter())[row["reason"].split(": held-out")[0]] += 1
    return {name: dict(sorted(reasons.items())) for name, reasons in sorted(counts.items())}


def read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _quarantined(file: str, reason: str, row: Row) -> Row:
    return {"file": file, "reason": reason, "row": {name: row[name] for name in row if name not in INTERNAL}}
