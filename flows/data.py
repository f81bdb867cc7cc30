"""The data stage as a flow of its own."""

from prefect import flow

from flows.drift import drift as watch
from tasks import steps
from tasks.artifacts import Dataset
from tasks.data import DataRecipe, build_dataset, find_dataset, ingest_rows, validate_rows
from tasks.drift import announce_change
from tasks.settings import Execution, pinned_data
from tasks.versioning import current_data, version_data


@flow
def data(recipe: DataRecipe = DataRecipe(), name: str = "encyclopaedia", execution: Execution = Execution()) -> Dataset:
    """1. restore the data set, or  2. read the sources  3. validate  4. split and curate; then  5. version `data/`
    6. profile it, and say what moved since the data of the champion  7. announce the change

    Args:
        name: the registered model that the data are for; they are compared with those of its champion
    """
    before = current_data()
    found = steps.find(pinned_data(), "data", Dataset) if pinned_data() else find_dataset(recipe)
    dataset = found or build_dataset(validate_rows(ingest_rows(recipe), recipe), recipe)
    version_data(dataset, commit=execution.commit)
    watch(dataset.key, name, execution=execution)
    announce_change(before, dataset, name)
    return dataset
