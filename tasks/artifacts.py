"""The handles that travel between flows: a folder, its content digest and where it came from. Never tensors."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Artifact(BaseModel):
    """The finished outputs of one step.

    `key` names what was asked for (recipe, inputs, code, libraries); `digest` what came out of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    name: str
    key: str
    digest: str
    path: Path
    inputs: dict[str, str] = Field(default_factory=dict, description="The digest of each input it was made from.")
    summary: dict[str, Any] = Field(default_factory=dict, description="A few figures, small enough to travel.")
    run_id: str = Field("", description="The MLflow run that recorded it.")
    reused: bool = False


class Dataset(Artifact):
    """Text, instructions and preferences, split by group."""


class Tokenizer(Artifact):
    """A tokenizer with its chat template."""


class Forecast(Artifact):
    """A fitted scaling law and what it says of the run to come."""


class Checkpoint(Artifact):
    """A model folder that `from_pretrained` reads, with its tokenizer."""

    @property
    def model(self) -> Path:
        return self.path / "model"


class Pairs(Artifact):
    """Preference pairs sampled from a model."""


class EvaluationReport(Artifact):
    """Every model and rule on the same held-out items."""


class RegisteredModel(Artifact):
    """A version in the MLflow registry, and the verdict on it."""
