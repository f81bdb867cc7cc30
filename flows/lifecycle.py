"""The whole life cycle: from raw text to a model that is registered, and the champion if the evidence says so."""

from prefect import flow

from flows.approval import Approval
from flows.data import data as data_stage
from flows.evaluate import evaluate
from flows.pretrain import pretrain as pretraining
from flows.registry import registry
from flows.rlhf import rlhf as alignment
from flows.scaling_laws import scaling_laws
from flows.sft import sft as finetuning
from flows.tokenizer import tokenizer as tokenization
from tasks import distributed
from tasks.artifacts import RegisteredModel
from tasks.data import DataRecipe
from tasks.evaluation import EvaluationRecipe
from tasks.gate import Gate
from tasks.lineage import origin
from tasks.preferences import PreferenceRecipe
from tasks.pretrain import PretrainRecipe
from tasks.report import ReportRecipe, announce, publish, write_report
from tasks.reward import RewardRecipe
from tasks.rlhf import RLHFRecipe
from tasks.scaling_laws import ScalingRecipe, require_life_cycle
from tasks.settings import Execution
from tasks.sft import SFTRecipe, scratch_recipe, train_from_scratch
from tasks.tokenizer import TokenizerRecipe
from tasks.workers import side_by_side


@flow(task_runner=side_by_side())
def lifecycle(
    name: str = "encyclopaedia",
    data: DataRecipe = DataRecipe(),
    tokenizer: TokenizerRecipe = TokenizerRecipe(),
    scaling: ScalingRecipe = ScalingRecipe(),
    pretrain: PretrainRecipe = PretrainRecipe(),
    sft: SFTRecipe = SFTRecipe(),
    preferences: PreferenceRecipe = PreferenceRecipe(),
    reward: RewardRecipe = RewardRecipe(),
    rlhf: RLHFRecipe = RLHFRecipe(),
    evaluation: EvaluationRecipe = EvaluationRecipe(),
    gate: Gate = Gate(),
    approval: Approval = Approval(),
    execution: Execution = Execution(),
) -> RegisteredModel:
    """1. data  2. tokenizer  3. scaling laws and forecast  4. pre-training  5. instruction fine-tuning, and its control
    beside both  6. preferences, reward model, alignment  7. evaluation  8. registry: champion or not, why  9. report

    Args:
        name: the model's name in the registry
    """
    require_life_cycle(scaling, pretrain, tokenizer.context)
    distributed.require(pretrain.batch, execution)
    made_by = origin()
    dataset = data_stage(data, name, execution)
    vocabulary = tokenization(dataset.key, tokenizer, execution)
    forecast = scaling_laws(vocabulary.key, scaling, pretrain, execution)
    control = train_from_scratch.submit(vocabulary, forecast, dataset, scratch_recipe(sft, pretrain), execution)
    base = pretraining(vocabulary.key, forecast.key, pretrain, execution=execution)
    tuned = finetuning(base.key, dataset.key, sft, execution)
    pairs, judge, aligned = alignment(tuned.key, dataset.key, preferences, reward, rlhf, execution)
    models = {"base": base, "from-scratch": control.result(), "sft": tuned, "aligned": aligned}
    folders = {row: str(model.path) for row, model in models.items()}
    measured = evaluate(folders, dataset.key, judge.key, evaluation, pretrain, execution)
    registered = registry(
        str(aligned.path), measured.key, dataset.key, judge.key, name, gate, approval, evaluation, pretrain,
        execution=execution, made_by=made_by,
    )  # fmt: skip
    parts = {
        "data": dataset, "tokenizer": vocabulary, "forecast": forecast, **models, "pairs": pairs, "reward": judge,
        "evaluation": measured, "registered": registered,
    }  # fmt: skip
    report = write_report(ReportRecipe(title=f"Life cycle of {name}", model=name), parts)
    publish(report, registered)
    announce(report, measured, registered)
    return registered
