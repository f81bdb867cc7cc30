"""The watch on the data as a flow of its own."""

from prefect import flow

from tasks import steps
from tasks.artifacts import Artifact, Dataset
from tasks.drift import (
    DriftRecipe,
    ProfileRecipe,
    champion_data,
    champion_models,
    champion_profile,
    compare_data,
    profile_data,
)
from tasks.settings import Execution


@flow
def drift(
    dataset: str = "latest",
    name: str = "encyclopaedia",
    profile: ProfileRecipe = ProfileRecipe(),
    recipe: DriftRecipe = DriftRecipe(),
    execution: Execution = Execution(),
) -> Artifact:
    """1. find what the champion was trained on  2. profile the data set, under the champion's tokenizer and model
    3. where the champion was trained on others: profile those too, and compare

    Args:
        dataset: `latest`, the start of a key, or a folder of the store
        name: the registered model whose champion the data are compared with
    """
    current = steps.find(dataset, "data", Dataset)
    champion = champion_data(name)
    if champion is None or champion.digest == current.digest:
        return profile_data(current, None, None, profile, execution)
    models = champion_models(name)
    seen = profile_data(current, *models, profile, execution)
    reference = champion_profile(champion, *models, profile, execution)
    return seen if reference is None else compare_data(seen, reference, recipe)
