"""The data stage as a flow of its own."""

from prefect import flow

from tasks.artifacts import Dataset
from tasks.data import DataRecipe, build_dataset, find_dataset, ingest_rows, validate_rows
from tasks.settings import Execution
from tasks.versioning import version_data


@flow
def data(recipe: DataRecipe = DataRecipe(), execution: Execution = Execution()) -> Dataset:
    """1. restore the data set, or  2. read the source  3. validate  4. split and curate; then  5. version `data/`"""
    dataset = find_dataset(recipe) or build_dataset(validate_rows(ingest_rows(recipe), recipe), recipe)
    version_data(dataset)
    return dataset
