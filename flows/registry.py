"""The registry as a flow of its own."""

from pathlib import Path

from prefect import flow

from tasks import steps
from tasks.artifacts import Checkpoint, Dataset, EvaluationReport, RegisteredModel, Tokenizer
from tasks.catalogue import checkpoint
from tasks.evaluation import EvaluationRecipe, evaluate_model, find_model
from tasks.gate import ITEMS, Gate, Items, read_items
from tasks.lineage import Origin, trace
from tasks.pretrain import PretrainRecipe
from tasks.registry import register
from tasks.settings import Execution


@flow
def registry(
    model: str = "rlhf/grpo",
    report: str = "latest",
    dataset: str = "latest",
    tokenizer: str = "latest",
    reward: str = "latest",
    name: str = "encyclopaedia",
    gate: Gate = Gate(),
    evaluation: EvaluationRecipe = EvaluationRecipe(),
    pretrain: PretrainRecipe = PretrainRecipe(),
    execution: Execution = Execution(),
    made_by: Origin = Origin(),
) -> RegisteredModel:
    """1. log and register the model  2. compare it with the champion on the same items  3. move the alias, or not

    Args:
        model: the model as `stage/name` (its newest) or as the folder of its step
        report: a finished evaluation with a row for it: `latest`, the start of its key, or its folder
        dataset: a finished data set, likewise; the champion answers its items again if it knows others
        tokenizer: a finished tokenizer, likewise
        reward: a finished reward model, likewise; empty to leave its column out
        name: the model's name in the registry
        evaluation: how a champion that was scored on other items is evaluated again
        pretrain: its mixture and context say which held-out text is read then
        made_by: the flow that makes such a model from the start, for `evergreen reproduce`; by default this one
    """
    candidate, data = find_model(model), steps.find(dataset, "data", Dataset)
    measured = steps.find(report, "evaluate", EvaluationReport, name="compare")
    vocabulary = steps.find(tokenizer, "tokenizer", Tokenizer)
    judge = steps.find(reward, "reward", Checkpoint) if reward else None
    text = {"mixture": pretrain.mixture, "context": pretrain.context}

    def evaluate_again(folder: Path) -> Items:
        champion = checkpoint(folder)
        made = evaluate_model.fn(champion, data, vocabulary, judge, evaluation, execution, name="champion", text=text)
        return read_items(made.path / ITEMS)

    lineage = trace(candidate, measured, data, made_by)
    return register(candidate, measured, name=name, gate=gate, lineage=lineage, evaluate_again=evaluate_again)
