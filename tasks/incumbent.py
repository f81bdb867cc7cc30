"""The version that a retraining goes on from: its weights, and the data that it was trained on."""

import logging
from dataclasses import dataclass

from tasks import catalogue, drift, lineage, reproduction, tracking
from tasks.artifacts import Checkpoint, Dataset
from tasks.errors import DataVersionError, RegistryError
from tasks.settings import home

logger = logging.getLogger("evergreen.incumbent")


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
    """The data that an incumbent was trained on, as `data_of`."""
    return data_of(before.version, before.data_key, before.data_digest)


def data_of(version: str, key: str, digest: str) -> Dataset | None:
    """The data of NAME/VERSION: in the store, in `data/`, or as DVC's cache or remote has their version.

    None where they are lost, or nobody recorded which version they are.
    """
    found = drift.data_files(key, digest)
    if found is None and _brought_back(version):
        found = drift.data_files(key, digest)
    return found


def _brought_back(version: str) -> bool:
    try:
        recorded = lineage.read(catalogue.find(version))
        return bool(recorded["data"]["md5"]) and reproduction.lay_data(recorded, home())
    except (RegistryError, DataVersionError) as error:
        logger.warning("the data of %s could not be brought back: %s", version, error)
        return False
