"""The version that a retraining goes on from: its weights, and the data that it was trained on."""

from dataclasses import dataclass

from tasks import catalogue, drift, tracking
from tasks.artifacts import Checkpoint, Dataset
from tasks.errors import RegistryError


@dataclass(frozen=True)
class Incumbent:
    """A registered version and what it learned from."""

    version: str  # NAME/VERSION
    model: Checkpoint
    data_key: str
    data_digest: str

    @property
    def reference(self) -> str:
        """As MLflow names it, which the evaluation takes for a row."""
        return f"models:/{self.version}"


def incumbent(reference: str) -> Incumbent | None:
    """The champion of a name, or the version `NAME/VERSION`; None where the name has no champion yet.

    Raises RegistryError for a version that does not exist, or that does not say what data it was trained on.
    """
    name, _, number = reference.partition("/")
    if not number and (not tracking.exists() or catalogue.CHAMPION not in catalogue.aliases(name)):
        return None
    with tracking.reachable():
        version = catalogue.find(reference if number else f"{name}@{catalogue.CHAMPION}")
        digest = version.tags.get("data_digest", "")
        if not digest:
            raise RegistryError(
                f"{name}/{version.version} does not say what data it was trained on, so nothing can be continued from "
                "it; retrain with start=scratch"
            )
        model = catalogue.checkpoint(catalogue.folder_of(version))
        return Incumbent(f"{name}/{version.version}", model, version.tags.get("data_key", ""), digest)


def files_of(before: Incumbent) -> Dataset | None:
    """The data that a version was trained on, where they still lie; None where they are lost."""
    return drift.data_files(before.data_key, before.data_digest)
