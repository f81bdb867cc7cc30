"""Evaluation as a flow of its own."""

from prefect import flow

from tasks import steps
from tasks.artifacts import Checkpoint, Dataset, EvaluationReport
from tasks.comparison import compare
from tasks.evaluation import EvaluationRecipe, evaluate_model, find_model
from tasks.pretrain import PretrainRecipe
from tasks.settings import Execution
from tasks.workers import side_by_side

LATEST = {"base": "pretrain/main", "sft": "sft/lora", "aligned": "rlhf/grpo"}


@flow(task_runner=side_by_side())
def evaluate(
    models: dict[str, str] = LATEST,
    dataset: str = "latest",
    reward: str = "latest",
    recipe: EvaluationRecipe = EvaluationRecipe(),
    pretrain: PretrainRecipe = PretrainRecipe(),
    execution: Execution = Execution(),
) -> EvaluationReport:
    """1. let every model answer the same held-out items, side by side  2. compare them with rules and human text

    Args:
        models: the rows of the report: a name, and the model as `stage/name` (its newest), as the folder of its step
            or as `models:/NAME/VERSION`
        dataset: a finished data set: `latest`, the start of its key, or its folder
        reward: a finished reward model, likewise; empty to leave the column out
        pretrain: its mixture says which held-out text is read
    """
    data = steps.find(dataset, "data", Dataset)
    judge = steps.find(reward, "reward", Checkpoint) if reward else None
    running = {
        name: evaluate_model.submit(
            find_model(reference), data, judge, recipe, execution, name=name, mixture=pretrain.mixture
        )
        for name, reference in models.items()
    }
    return compare({name: future.result() for name, future in running.items()}, data, recipe)
