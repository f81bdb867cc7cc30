"""A night: newer data, the champion continued on them, judged against itself, promoted or not. Or nothing new."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from prefect import flow

from flows import deployments
from flows.approval import Approval
from flows.data import data as data_stage
from flows.evaluate import evaluate
from flows.registry import registry
from flows.turns import turn
from tasks import distributed
from tasks.artifacts import Artifact, EvaluationReport, RegisteredModel
from tasks.data import DataRecipe
from tasks.evaluation import EvaluationRecipe
from tasks.gate import Gate
from tasks.incumbent import files_of, incumbent
from tasks.lineage import origin
from tasks.notice import Notice, notify
from tasks.preferences import PreferenceRecipe, sample_preferences
from tasks.pretrain import ContinueRecipe, continue_model
from tasks.replay import ReplayRecipe, mix
from tasks.report import ReportRecipe, announce, publish, write_report
from tasks.reward import RewardRecipe, train_reward
from tasks.rlhf import RLHFRecipe, align
from tasks.settings import Execution
from tasks.sft import SFTRecipe, finetune
from tasks.tokenizer import EncodeRecipe, encode

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State


def tell_failure(flow: Any, flow_run: "FlowRun", state: "State") -> None:
    """A failed night is told like any other; the champion is what it was."""
    given = flow_run.parameters
    notice = Notice.model_validate(given.get("notice", {}))
    notify.fn(notice, f"Retraining of {given.get('name')} failed, the champion stays", str(state.message))


@flow(on_failure=[tell_failure], on_crashed=[tell_failure])
def retrain(
    name: str = "encyclopaedia",
    data: DataRecipe = DataRecipe(),
    start: Literal["champion", "scratch"] = "champion",
    scratch: str = "lifecycle/nano",
    parent: str = "",
    replay: ReplayRecipe = ReplayRecipe(),
    encoding: EncodeRecipe = EncodeRecipe(),
    pretrain: ContinueRecipe = ContinueRecipe(),
    sft: SFTRecipe = SFTRecipe(epochs=1.0),
    preferences: PreferenceRecipe = PreferenceRecipe(),
    reward: RewardRecipe = RewardRecipe(),
    rlhf: RLHFRecipe = RLHFRecipe(),
    evaluation: EvaluationRecipe = EvaluationRecipe(),
    gate: Gate = Gate(),
    approval: Approval = Approval(),
    notice: Notice = Notice(),
    execution: Execution = Execution(),
) -> RegisteredModel | None:
    """1. refresh, validate and profile the data; nothing new: end  2. choose what is learnt, with replay
    3. continue pre-training, fine-tuning and alignment from the champion, or all from scratch
    4. evaluate beside the champion  5. gate, a person if so set, promotion or not  6. report, and tell

    Args:
        name: the model's name in the registry; one run at a time works on it
        start: the champion's weights, or fresh ones
        scratch: the deployment that trains fresh weights, for the first champion too
        parent: the version to continue, as NAME/VERSION; empty for the champion
    """
    made_by = origin()
    with turn(name):
        before, first = incumbent(parent or name), deployments.load(scratch)  # a wrong name is told before the work
        fresh = before is None or start == "scratch"
        distributed.require(batch_of(first) if fresh else pretrain.batch, execution)
        dataset = data_stage(data, name, execution)
        if before is not None and before.data_digest == dataset.digest:
            return done(notice, name, f"nothing new: {before.version} was trained on these data")
        if before is None or start == "scratch":
            shared = {"evaluation": evaluation, "gate": gate, "approval": approval, "execution": execution}
            return done(notice, name, from_scratch(first, {"name": name, "data": data, **shared}))
        learnt = mix(dataset, files_of(before), replay)
        if not any(learnt.summary["new"].values()):
            return done(notice, name, f"nothing to learn: rows were only taken away from the data of {before.version}")
        vocabulary = encode(learnt, before.model, encoding, execution)
        read = any(vocabulary.summary["tokens"]["train"].values())
        base = continue_model(vocabulary, before.model, pretrain, execution) if read else before.model
        tuned = finetune(base, learnt, sft, execution)
        pairs = sample_preferences(tuned, learnt, preferences, execution)
        judge = train_reward(tuned, pairs, learnt, reward, execution)
        aligned = align(tuned, judge, learnt, rlhf, execution)
        row = "parent" if parent else "champion"  # the gate takes a row of that name for the champion
        models = {row: before.reference, "sft": str(tuned.path), "aligned": str(aligned.path)}
        keys = dataset.key, judge.key
        measured = evaluate(models, *keys, evaluation, execution=execution)
        registered = registry(
            str(aligned.path), measured.key, *keys, name, gate, approval, evaluation, parent=before.version,
            execution=execution, made_by=made_by,
        )  # fmt: skip
        parts = {"data": dataset, "tokenizer": vocabulary, "sft": tuned, "aligned": aligned, "pairs": pairs,
                 "reward": judge, "evaluation": measured, "registered": registered}  # fmt: skip
        conclude(name, measured, registered, parts)
        return done(notice, name, registered)


def conclude(name: str, measured: EvaluationReport, registered: RegisteredModel, parts: Mapping[str, Artifact]) -> None:
    """Writes the report, publishes it, and says in the log what stands in it."""
    report = write_report(ReportRecipe(title=f"Retraining of {name}", model=name), parts)
    publish(report, registered)
    announce(report, measured, registered)


def batch_of(deployment: deployments.Deployment) -> int:
    """Windows in a batch of the pre-training of a deployment."""
    windows: int = deployments.configured(deployment, [])[1]["pretrain"].batch
    return windows


def from_scratch(deployment: deployments.Deployment, given: dict[str, Any]) -> RegisteredModel:
    """The life cycle of a deployment, with some of its parameters given."""
    flow, parameters = deployments.configured(deployment, [])
    registered: RegisteredModel = flow(**{**parameters, **given})
    return registered


def done(notice: Notice, name: str, outcome: RegisteredModel | str) -> RegisteredModel | None:
    """Tells how the night ended: with a version and the verdict on it, or with why there is none."""
    if isinstance(outcome, str):
        notify(notice, f"Retraining of {name}: the champion stays", outcome)
        return None
    summary = outcome.summary
    subject = f"Retraining of {name}: version {summary['version']} is {summary['verdict']}"
    notify(notice, subject, "\n".join(f"- {reason}" for reason in summary["reasons"]))
    return outcome
