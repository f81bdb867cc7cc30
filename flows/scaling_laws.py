"""The scaling-law sweep as a flow of its own."""

from prefect import flow

from tasks import steps
from tasks.artifacts import Forecast, Tokenizer
from tasks.pretrain import PretrainRecipe
from tasks.scaling_laws import ScalingRecipe, fit_and_forecast, point_steps, train_point, work
from tasks.settings import Execution
from tasks.workers import side_by_side


@flow(task_runner=side_by_side())
def scaling_laws(
    tokenizer: str = "latest",
    recipe: ScalingRecipe = ScalingRecipe(),
    pretrain: PretrainRecipe = PretrainRecipe(),
    execution: Execution = Execution(),
) -> Forecast:
    """1. train small models, side by side  2. fit the law, pick size and tokens for the budget, forecast the loss

    Args:
        tokenizer: a finished tokenizer: `latest`, the start of its key, or its folder
        pretrain: what the small runs share with the run to come
    """
    vocabulary = steps.find(tokenizer, "tokenizer", Tokenizer)
    planned = point_steps(recipe, pretrain, vocabulary.key)
    # the longest first, so that the processes end together
    longest_first = sorted(planned, key=work, reverse=True)
    running = {step.key: train_point.submit(vocabulary, step, execution) for step in longest_first}
    points = [running[step.key].result() for step in planned]
    return fit_and_forecast(points, vocabulary, recipe, pretrain)
