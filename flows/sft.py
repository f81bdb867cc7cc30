"""Instruction fine-tuning as a flow of its own."""

from prefect import flow

from tasks import steps
from tasks.artifacts import Checkpoint, Dataset
from tasks.pretrain import require_decoder
from tasks.settings import Execution
from tasks.sft import SFTRecipe, finetune


@flow
def sft(
    base: str = "latest",
    dataset: str = "latest",
    recipe: SFTRecipe = SFTRecipe(),
    execution: Execution = Execution(),
) -> Checkpoint:
    """1. fine-tune the base model with LoRA on the answers, and merge

    Args:
        base: a finished pre-training: `latest`, the start of its key, or its folder
        dataset: a finished data set, likewise
    """
    model = steps.find(base, "pretrain", Checkpoint)
    require_decoder(model.summary.get("family", "llama"))
    return finetune(model, steps.find(dataset, "data", Dataset), recipe, execution)
