"""The data stage: raw candidate rows, their validation, and the data set made from what is valid."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks import pages, steps
from tasks.artifacts import Artifact, Dataset

R = TypeVar("R", bound=BaseModel)
SOURCE = r"builtin:encyclopaedia|package:[\w.\-]+(,[\w.\-]+)*|path:.+|hub:[^@#\s]+(#[^@\s]+)?(@[\w.\-/]+)?"
HALF_A_PAIR = re.compile("[\ud800-\udfff]")  # a surrogate, which no file and no key can hold
SOURCES = "builtin:encyclopaedia, package:NAME[,NAME...], path:FOLDER or hub:NAME[#CONFIG][@REVISION]"


class IngestRecipe(BaseModel):
    """What is read, and how it is cut into rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | dict[str, float] = Field(
        "builtin:encyclopaedia", description=f"{SOURCES}; or several with the weight of each in the mixture."
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

    @field_validator("source", mode="before")
    @classmethod
    def _names_sources(cls, source: Any) -> Any:
        """One sentence for whatever is wrong: of a union pydantic would tell what each half of it lacks."""
        weighted = source.items() if isinstance(source, Mapping) else [(source, 1.0)]
        if not weighted:
            raise ValueError(f"it names no source; give {SOURCES}")
        for name, weight in weighted:
            if not isinstance(name, str) or HALF_A_PAIR.search(name) or not re.fullmatch(SOURCE, name):
                raise ValueError(f"a source is {SOURCES}, or several of them with a weight for each")
            if not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise ValueError(f"the weight of {name} must be a finite number above 0")
        return source

    @property
    def sources(self) -> dict[str, float]:
        """Every source with its weight."""
        return {self.source: 1.0} if isinstance(self.source, str) else dict(self.source)


class ValidateRecipe(BaseModel):
    """What a row must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lead_words: int = Field(12, ge=1, description="Least words of an article's lead.")
    description_words: int = Field(16, ge=1, description="Most words of a short description.")
    least_characters: int = Field(1, ge=0, description="Least characters of a row.")
    most_characters: int = Field(200_000, ge=1, description="Most characters of a row.")
    least_tokens: int = Field(1, ge=0, description="Least words and marks of a row, which a tokenizer at least needs.")
    most_tokens: int = Field(50_000, ge=1, description="Most words and marks of a row.")
    most_repetition: float = Field(0.5, ge=0, le=1, description="Largest share of a row's four-word runs that repeat.")
    script: Literal[
        "Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Thai", "Han", "Japanese", "Korean"
    ] = Field("Latin", description="The script that most letters of a row should be in; others are a warning.")
    scrub: bool = Field(
        False, description="Replace e-mail addresses, phone and card numbers and keys by [EMAIL], [PHONE] and so on."
    )
    tolerated: float = Field(
        0.05, ge=0, le=1, description="Share of the rows that one rule may put into quarantine; more stops the run."
    )
    on_failure: Literal["quarantine", "stop"] = Field(
        "quarantine", description="What a row that breaks a rule does: leave the data set, or stop the run."
    )


class DatasetRecipe(BaseModel):
    """How valid rows become the data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    duplicate_threshold: float = Field(
        0.7, gt=0, le=1, description="Of rows this similar (Jaccard of 5-word shingles) only one stays."
    )
    benchmarks: tuple[str, ...] = Field(
        (), description="Files or folders of benchmark items that no training row may contain."
    )
    overlap_words: int = Field(13, ge=5, le=100, description="A run of so many words is contamination.")
    common_runs: int = Field(
        10, ge=0, description="A run of words in more training rows than so many is boilerplate, and no contamination."
    )
    least_words: int = Field(0, ge=0, description="Rows of fewer words leave the training side.")
    least_letters: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Rows whose share of letters, digits and spaces is smaller leave the training side.",
    )
    replies: int = Field(4000, ge=0, description="Most dialogue replies in the training instructions (0: all).")
    seed: int = Field(1, ge=0, description="Of every pick and of the order of the rows.")


class DataRecipe(DatasetRecipe, ValidateRecipe, IngestRecipe):  # fields come in the reverse order: the source first
    """Which data, what is valid, how it is split."""

    def part(self, kind: type[R]) -> R:
        """The fields that one step depends on, so that another field does not change its key."""
        return kind.model_validate({name: getattr(self, name) for name in kind.model_fields})


def plan(recipe: DataRecipe) -> list[steps.Step]:
    """The steps ingest, validate and dataset with their keys, nothing run. Raises SourceError for a missing source."""
    from tasks import decontamination, sources

    ingest = steps.Step(
        stage="ingest",
        name="rows",
        recipe=recipe.part(IngestRecipe),
        facts={source: sources.facts(source, recipe.languages) for source in recipe.sources},
        modules=(
            "tasks.ingest", "tasks.sources", "tasks.encyclopaedia", "tasks.mining", "tasks.hub", "tasks.readers",
            "tasks.records", "tasks.cut", "tasks.rows", "models.formats", "models.prose",
        ),
    )  # fmt: skip
    validate = steps.Step(
        stage="validate",
        name="rows",
        recipe=recipe.part(ValidateRecipe),
        inputs={"rows": ingest.key},
        libraries=("great_expectations", "pyarrow", "ftfy", "phonenumbers"),
        modules=(
            "tasks.validate",
            "tasks.validation",
            "tasks.suites",
            "tasks.facts",
            "models.quality",
            "models.privacy",
        ),
    )
    dataset = steps.Step(
        stage="data",
        name="dataset",
        recipe=recipe.part(DatasetRecipe),
        inputs={"valid": validate.key},
        libraries=("rensa",),
        facts=decontamination.benchmark_facts(recipe.benchmarks),
        modules=(
            "tasks.curation", "tasks.decontamination", "tasks.sheets", "tasks.splits", "tasks.ratings", "tasks.card",
            "tasks.rows", "tasks.readers", "tasks.records", "models.prose", "models.duplicates",
            "models.contamination", "models.quality",
        ),
    )  # fmt: skip
    return [ingest, validate, dataset]


@task(task_run_name="read the source", cache_policy=NO_CACHE)
def ingest_rows(recipe: DataRecipe) -> Artifact:
    """Candidate rows with their provenance, one file per kind."""

    step = plan(recipe)[0]

    def build(folder: Path) -> dict[str, Any]:
        from tasks import ingest

        made = ingest.ingest(folder, recipe.part(IngestRecipe))
        ingest.confirm(recipe, step.facts)
        return made

    return steps.materialise(step, Artifact, build)


@task(task_run_name="validate the rows", cache_policy=NO_CACHE)
def validate_rows(candidates: Artifact, recipe: DataRecipe) -> Artifact:
    """The rows that pass their suite, `quarantine.jsonl` with the others and why, `validation.json` and `.html`.

    Raises DataValidationError where more is wrong than may be left out.
    """

    def build(folder: Path) -> dict[str, Any]:
        from tasks import validate

        return validate.validate(candidates.path, folder, recipe.part(ValidateRecipe))

    from tasks import validation_page

    checked = steps.materialise(plan(recipe)[1], Artifact, build)
    reports = json.loads((checked.path / "validation.json").read_text(encoding="utf-8"))
    pages.show_validation(checked, validation_page.markdown(reports))
    return checked


@task(task_run_name="split and curate", cache_policy=NO_CACHE)
def build_dataset(valid: Artifact, recipe: DataRecipe) -> Dataset:
    """Text, instructions and preferences, split by group, with the data card and the quarantine."""

    def build(folder: Path) -> dict[str, Any]:
        from tasks import curation

        return curation.curate(valid.path, folder, recipe.part(DatasetRecipe))

    return steps.materialise(plan(recipe)[2], Dataset, build)


@task(task_run_name="look for the data set", cache_policy=NO_CACHE)
def find_dataset(recipe: DataRecipe) -> Dataset | None:
    """The data set of this recipe where it lies in the store, or can be had from the version that `data.dvc` names."""
    from tasks import versioning

    step = plan(recipe)[2]
    if steps.status(step).reused:
        return steps.load(step, Dataset)
    return versioning.restore(step)
