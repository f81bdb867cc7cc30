"""What a continued model has lost of what it knew: its loss on held-out text of the earlier data, before and after."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import workers
from tasks.artifacts import Tokenizer
from tasks.settings import Execution

if TYPE_CHECKING:
    from models.packing import PackedWindows
    from tasks.pretrain import PretrainRecipe

logger = logging.getLogger("evergreen.pretrain")


def measure(
    before: Path, after: Path, earlier: Tokenizer, recipe: "PretrainRecipe", execution: Execution
) -> dict[str, Any]:
    """`loss_before`, `loss` and `change` in nats per token on windows of the validation side that `earlier` encoded.

    `change` is what was forgotten, or gained where it is negative. Empty, with a warning, where the text is too short.
    """
    if max(earlier.summary["tokens"].get("validation", {}).values(), default=0) < recipe.context:
        logger.warning(
            "the earlier data hold no held-out text of %d tokens: forgetting is not measured", recipe.context
        )
        return {}
    losses = workers.call(
        _losses, (before, after), earlier.path, recipe, execution.device,
        threads=execution.threads_each, processes=execution.processes, label="pretrain/forgetting",
    )  # fmt: skip
    return {"loss_before": losses[0], "loss": losses[1], "change": losses[1] - losses[0]}


def _losses(models: tuple[Path, ...], encoded: Path, recipe: "PretrainRecipe", device: str) -> list[float]:
    from transformers import AutoTokenizer

    from models.packing import PackedWindows

    tokenizer = AutoTokenizer.from_pretrained(encoded / "tokenizer")
    held_out = encoded / "tokens" / "validation"
    windows = PackedWindows(held_out, recipe.mixture, context=recipe.context, tokens=recipe.validation_tokens)
    return [_loss(model, tokenizer, windows, recipe, device) for model in models]


def _loss(folder: Path, tokenizer: Any, windows: "PackedWindows", recipe: "PretrainRecipe", device: str) -> float:
    from models.architectures import load
    from models.objectives import Examples, example_losses, objective_of
    from tasks.generation import pick_device

    model = load(folder, attn_implementation="eager", dtype="float32").to(pick_device(device))
    objective = objective_of(model, tokenizer, seed=recipe.seed, apart=recipe.documents == "apart")
    return float(example_losses(model, Examples(windows, objective)).mean())
