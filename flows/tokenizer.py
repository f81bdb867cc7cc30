"""The tokenizer as a flow of its own."""

from prefect import flow

from tasks import steps
from tasks.artifacts import Dataset, Tokenizer
from tasks.settings import Execution
from tasks.tokenizer import TokenizerRecipe, train_tokenizer


@flow
def tokenizer(
    dataset: str = "latest", recipe: TokenizerRecipe = TokenizerRecipe(), execution: Execution = Execution()
) -> Tokenizer:
    """1. train the tokenizer on the training side and encode every split

    Args:
        dataset: a finished data set: `latest`, the start of its key, or its folder
    """
    return train_tokenizer(steps.find(dataset, "data", Dataset), recipe, execution)
