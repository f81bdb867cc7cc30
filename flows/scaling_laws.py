"""The scaling-law sweep as a flow of its own."""

from prefect import flow

from tasks import cluster, steps
from tasks.artifacts import Checkpoint, Forecast, Tokenizer
from tasks.pretrain import PretrainRecipe
from tasks.scaling_laws import ScalingRecipe, fit_and_forecast, point_steps, train_point, work
from tasks.settings import Execution
from tasks.workers import side_by_side


@flow(task_runner=side_by_side())
def sweep(
    tokenizer: Tokenizer, recipe: ScalingRecipe, pretrain: PretrainRecipe, execution: Execution
) -> list[Checkpoint]:
    """1. train the small models, side by side, in the order in which the fit reads them"""
    planned = point_steps(recipe, pretrain, tokenizer.key, tokenizer.summary["vocabulary"])
    # the longest first, so that the processes end together
    longest_first = sorted(planned, key=work, reverse=True)
    with cluster.share(execution):
        running = {step.key: train_point.submit(tokenizer, step, execution) for step in longest_first}
    return cluster.collect(running, planned, execution)


@flow
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
    side_by_side_or_ray = sweep.with_options(task_runner=cluster.runner(execution))
    points = side_by_side_or_ray(vocabulary, recipe, pretrain, execution)
    return fit_and_forecast(points, vocabulary, recipe, pretrain)
