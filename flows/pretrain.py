"""Pre-training as a flow of its own: from scratch, or on from a model that there is."""

import logging

from prefect import flow

from tasks import distributed, starts, steps
from tasks.artifacts import Checkpoint, Dataset, Forecast, Tokenizer
from tasks.errors import UsageError
from tasks.pretrain import ContinueRecipe, PretrainRecipe, continue_model, pretrain_model
from tasks.replay import ReplayRecipe, mix
from tasks.settings import Execution
from tasks.tokenizer import EncodeRecipe, encode

logger = logging.getLogger("evergreen.pretrain")


@flow
def pretrain(
    tokenizer: str = "latest",
    forecast: str = "latest",
    recipe: PretrainRecipe = PretrainRecipe(),
    start: str = "",
    dataset: str = "latest",
    earlier: str = "",
    replay: ReplayRecipe = ReplayRecipe(least=0.25),
    encoding: EncodeRecipe = EncodeRecipe(),
    continued: ContinueRecipe = ContinueRecipe(mixture={}, learning_rate=0, embedding_learning_rate=0),
    execution: Execution = Execution(),
) -> Checkpoint:
    """1. train at the size and token count of the forecast; its loss is held against the forecast and n-gram baselines
    With a start: 1. import it where it is foreign  2. mix the new data with a replay of the earlier ones
    3. encode both with its tokenizer  4. train on; its loss on new and earlier text is held against that before

    Args:
        tokenizer: from scratch: a finished tokenizer: `latest`, the start of its key, or its folder
        forecast: from scratch: a finished forecast, likewise; empty where the recipe itself gives size and tokens
        start: a model to go on from: a folder, a GGUF file, hf:OWNER/NAME, a registered model, a step's folder
        dataset: with a start: the new data: a finished data set, as `latest`, the start of its key, or its folder
        earlier: with a start: data that it has seen, likewise; empty: those of a registered model, for others none
    """
    if start:
        if recipe != PretrainRecipe():
            raise UsageError("recipe is for a training from scratch and start is given: set the fields of continued")
        return going_on(start, dataset, earlier, replay, encoding, continued, execution)
    vocabulary = steps.find(tokenizer, "tokenizer", Tokenizer)
    expected = steps.find(forecast, "scaling", Forecast, name="fit") if forecast else None
    return pretrain_model(vocabulary, expected, recipe, execution)


def going_on(
    start: str, dataset: str, earlier: str, replay: ReplayRecipe, encoding: EncodeRecipe, continued: ContinueRecipe,
    execution: Execution,
) -> Checkpoint:  # fmt: skip
    """Imports, mixes, encodes and trains on, each step reused where nothing that decides it has changed."""
    distributed.require(continued.batch, execution)
    found = starts.found(start)
    new, known = steps.find(dataset, "data", Dataset), starts.earlier_data(found, earlier)
    base = starts.begin(found, execution, context=continued.context)
    learnt = mix(new, known, replay) if known else new
    if known and not learnt.summary["new"]["text"]:
        logger.warning("the model has seen every text of the data set %s: it reads them once more", new.key)
    vocabulary = encode(learnt, base, encoding, execution)
    held_out = encode(known, base, encoding, execution) if known else None
    return continue_model(vocabulary, base, continued, execution, held_out)
