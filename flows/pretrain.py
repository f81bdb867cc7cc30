"""Pre-training as a flow of its own."""

from prefect import flow

from tasks import steps
from tasks.artifacts import Checkpoint, Forecast, Tokenizer
from tasks.pretrain import PretrainRecipe, pretrain_model
from tasks.settings import Execution


@flow
def pretrain(
    tokenizer: str = "latest",
    forecast: str = "latest",
    recipe: PretrainRecipe = PretrainRecipe(),
    execution: Execution = Execution(),
) -> Checkpoint:
    """1. train at the size and token count of the forecast; its loss is held against the forecast and n-gram baselines

    Args:
        tokenizer: a finished tokenizer: `latest`, the start of its key, or its folder
        forecast: a finished forecast, likewise; empty where the recipe itself gives size and tokens
    """
    vocabulary = steps.find(tokenizer, "tokenizer", Tokenizer)
    expected = steps.find(forecast, "scaling", Forecast, name="fit") if forecast else None
    return pretrain_model(vocabulary, expected, recipe, execution)
