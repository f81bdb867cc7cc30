"""The registry as a flow of its own."""

from typing import TYPE_CHECKING

from prefect import flow

from flows.approval import Approval, refusal
from tasks import steps
from tasks.artifacts import Checkpoint, Dataset, EvaluationReport, RegisteredModel
from tasks.catalogue import PASSED, checkpoint, folder_of
from tasks.contest import Contest
from tasks.evaluation import EvaluationRecipe, evaluate_model, find_model
from tasks.gate import Gate
from tasks.lineage import PARENT, Origin, trace
from tasks.pretrain import PretrainRecipe
from tasks.promotion import decline, judge, promote
from tasks.registry import register
from tasks.rival import Rival, of_model
from tasks.settings import Execution

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


@flow
def registry(
    model: str = "rlhf/grpo",
    report: str = "latest",
    dataset: str = "latest",
    reward: str = "latest",
    name: str = "encyclopaedia",
    gate: Gate = Gate(),
    approval: Approval = Approval(),
    evaluation: EvaluationRecipe = EvaluationRecipe(),
    pretrain: PretrainRecipe = PretrainRecipe(),
    parent: str = "",
    execution: Execution = Execution(),
    made_by: Origin = Origin(),
) -> RegisteredModel:
    """1. log and register the model  2. judge it against the champion on the same items  3. ask a person, if so set
    4. try the export, move the champion's alias, try it again; or leave all as it is

    Args:
        model: the model as `stage/name` (its newest) or as the folder of its step
        report: a finished evaluation with a row for it: `latest`, the start of its key, or its folder
        dataset: a finished data set, likewise; the champion answers its items again if it knows others
        reward: a finished reward model, likewise; empty to leave its column out
        name: the model's name in the registry
        evaluation: how a champion that was scored by another yardstick is evaluated again
        pretrain: its mixture says which held-out text is read then
        parent: the registered version that the model continues, as NAME/VERSION; empty for one from scratch
        made_by: the flow that makes such a model from the start, for `evergreen reproduce`; by default this one
    """
    candidate, data = find_model(model), steps.find(dataset, "data", Dataset)
    measured = steps.find(report, "evaluate", EvaluationReport, name="compare")
    judged_by = steps.find(reward, "reward", Checkpoint) if reward else None

    def again(version: "ModelVersion") -> Rival:
        champion = checkpoint(folder_of(version))
        made = evaluate_model.fn(
            champion, data, judged_by, evaluation, execution, name="champion", mixture=pretrain.mixture
        )
        return of_model(made.path)

    lineage = trace(candidate, measured, data, made_by) | ({PARENT: parent} if parent else {})
    contest = Contest(measured.path, gate, execution, again, evaluation.max_new_tokens)
    registered = judge(register(candidate, measured, name=name, gate=gate, lineage=lineage), contest)
    if approval.required and registered.summary["verdict"] == PASSED:
        no = refusal(registered, approval)
        registered = decline(registered, no) if no else registered
    return promote(registered, contest)
