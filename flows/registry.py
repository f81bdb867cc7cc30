"""The registry as a flow of its own."""

from pathlib import Path

from prefect import flow

from tasks import steps
from tasks.artifacts import Checkpoint, Dataset, EvaluationReport, RegisteredModel
from tasks.catalogue import checkpoint
from tasks.evaluation import EvaluationRecipe, evaluate_model, find_model
from tasks.gate import Gate
from tasks.latency import Latency, measure_latency
from tasks.lineage import trace
from tasks.pretrain import PretrainRecipe
from tasks.registry import register
from tasks.rival import Rival, of_model
from tasks.settings import Execution


@flow
def registry(
    model: str = "rlhf/grpo",
    report: str = "latest",
    dataset: str = "latest",
    reward: str = "latest",
    name: str = "encyclopaedia",
    gate: Gate = Gate(),
    evaluation: EvaluationRecipe = EvaluationRecipe(),
    pretrain: PretrainRecipe = PretrainRecipe(),
    execution: Execution = Execution(),
) -> RegisteredModel:
    """1. log and register the model  2. compare it with the champion on the same items  3. move the alias, or not

    Args:
        model: the model as `stage/name` (its newest) or as the folder of its step
        report: a finished evaluation with a row for it: `latest`, the start of its key, or its folder
        dataset: a finished data set, likewise; the champion answers its items again if it knows others
        reward: a finished reward model, likewise; empty to leave its column out
        name: the model's name in the registry
        evaluation: how a champion that was scored on other items is evaluated again
        pretrain: its mixture says which held-out text is read then
    """
    candidate, data = find_model(model), steps.find(dataset, "data", Dataset)
    measured = steps.find(report, "evaluate", EvaluationReport, name="compare")
    judge = steps.find(reward, "reward", Checkpoint) if reward else None
    mixture = pretrain.mixture

    def evaluate_again(folder: Path) -> Rival:
        champion = checkpoint(folder)
        made = evaluate_model.fn(champion, data, judge, evaluation, execution, name="champion", mixture=mixture)
        return of_model(made.path)

    def time(folder: Path) -> Latency:
        return measure_latency(
            candidate.model, folder, measured.path, execution, max_new_tokens=evaluation.max_new_tokens
        )

    lineage = trace(candidate, measured, data)
    return register(
        candidate, measured, name=name, gate=gate, lineage=lineage, evaluate_again=evaluate_again, time=time
    )
