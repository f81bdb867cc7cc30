"""What a worker process does to pre-train a model: tokens in, a saved model and its figures out."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.pretrain import PretrainRecipe

if TYPE_CHECKING:
    from models.objectives import Objective
    from models.packing import Examples


def train(tokens: Path, folder: Path, recipe: PretrainRecipe, device: str, start: Path | None) -> dict[str, Any]:
    """From fresh weights or, with `start`, from those of a saved model; its tokenizer is the one of the tokens."""
    from transformers import AutoTokenizer, Trainer, TrainingArguments

    from models import architectures, objectives
    from models.optimizers import MuonAdamW
    from tasks import training

    tokenizer = AutoTokenizer.from_pretrained(tokens / "tokenizer")
    if start:
        model = architectures.load(start, attn_implementation="eager", dtype="float32")
    else:
        tokenizer = architectures.with_added_tokens(tokenizer, recipe.family, recipe.context)
        model = architectures.fresh_model(recipe.size, tokenizer, seed=recipe.seed, family=recipe.family)
    objective = objectives.objective_of(model, tokenizer, seed=recipe.seed, apart=recipe.documents == "apart")
    data = {split: _examples(tokens / "tokens" / split, recipe, objective) for split in ("train", "validation")}
    before = {"loss_before": _mean_loss(model, data["validation"])} if start else {}
    steps = max(1, len(data["train"]) // recipe.batch)
    arguments = training.arguments(
        folder, seed=recipe.seed, device=device, steps=steps, batch=recipe.batch,
        learning_rate=recipe.learning_rate, warmup_steps=max(1, round(recipe.warmup * steps)),
        per_device_eval_batch_size=objectives.held_out_batch(model, data["validation"]), prediction_loss_only=True,
        eval_strategy="steps" if recipe.evaluations else "no", eval_steps=max(1, steps // max(1, recipe.evaluations)),
    )  # fmt: skip
    optimizer = MuonAdamW(model, lr=recipe.learning_rate, embedding_lr=recipe.embedding_learning_rate)
    trainer = Trainer(
        model, TrainingArguments(**arguments), optimizers=(optimizer, None), data_collator=objective.batch,
        train_dataset=data["train"], eval_dataset=data["validation"],
        compute_loss_func=partial(objectives.loss, shifted=objective.name == "causal"),
    )  # fmt: skip
    if recipe.evaluations:
        trainer.add_callback(_sampler(folder, tokenizer, data["validation"], recipe.context))
    figures = training.run(
        trainer, folder, tokens_per_step=recipe.batch * recipe.context,
        flops_per_token=_flops_per_token(model, data["train"], recipe.context),
    )  # fmt: skip
    loss = trainer.evaluate()["eval_loss"]
    baselines = _baselines(model, data, len(tokenizer)) if recipe.evaluations else {}
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    training.finish(folder)
    total = sum(p.numel() for p in model.parameters())
    return {
        **figures,
        **baselines,
        **before,
        "loss": loss,
        "family": architectures.family_of(model),
        "objective": objective.name,
        "documents": "apart" if objective.apart else "joined",
        **({} if start else {"size": recipe.size}),
        "tokens": steps * recipe.batch * recipe.context,
        "parameters": total,
        "non_embedding": total - model.get_input_embeddings().weight.numel() - _learnt_positions(model),
    }


def _examples(folder: Path, recipe: PretrainRecipe, objective: "Objective") -> "Examples":
    from models.packing import Examples, PackedWindows

    tokens = recipe.tokens if folder.name == "train" else recipe.validation_tokens
    return Examples(PackedWindows(folder, recipe.mixture, context=recipe.context, tokens=tokens), objective)


def _sampler(folder: Path, tokenizer: Any, held_out: "Examples", context: int) -> Any:
    """The callback that shows what the model says: it continues documents, or fills what was taken out of windows."""
    from models.objectives import Causal, Span
    from models.samples import PROMPTS
    from tasks import samples

    objective = held_out.objective
    if isinstance(objective, Causal):
        return samples.continuing(folder, tokenizer, held_out.windows.streams, begin=objective.begin, longest=context)
    return samples.sampler(
        folder, tokenizer, [held_out[i] for i in range(min(PROMPTS, len(held_out)))], longest=context,
        objective=objective.name, gaps=objective.sentinels if isinstance(objective, Span) else (),
    )  # fmt: skip


def _flops_per_token(model: Any, data: "Examples", context: int) -> float | None:
    """Of a token of a window, whatever is read and written of it. None where nobody knows them."""
    from tasks import pace

    example = data[0]
    inputs = len(example["input_ids"])
    targets = len(example["labels"]) if data.objective.name == "span" else 0
    each = pace.flops_per_token(model, inputs=inputs, targets=targets)
    return each and each * (inputs + targets) / context


def _mean_loss(model: Any, held_out: "Examples") -> float:
    from models.objectives import example_losses

    return float(example_losses(model, held_out).mean())


def _learnt_positions(model: Any) -> int:
    """Weights of the table of positions of GPT-2 and BERT: embeddings, as those of the tokens."""
    from models.architectures import family_of

    config = model.config
    return config.max_position_embeddings * config.hidden_size if family_of(model) in ("gpt2", "bert") else 0


def _baselines(model: Any, data: Mapping[str, "Examples"], vocabulary: int) -> dict[str, Any]:
    """N-grams on the same training tokens, and the paired gain over each on the held-out windows.

    The bigram is for causal models alone: others see what follows as well.
    """
    from models.metrics import paired
    from models.objectives import example_losses

    own = example_losses(model, data["validation"])
    figures: dict[str, Any] = {}
    for name, losses in _ngrams(data, vocabulary).items():
        gain = paired(losses, own)
        figures |= {
            name: float(losses.mean()),
            f"gain_over_{name}": {"mean": gain.mean, "low": gain.low, "high": gain.high},
        }
    return figures


def _ngrams(data: Mapping[str, "Examples"], vocabulary: int) -> dict[str, Any]:
    """Held-out losses by window. What a span model writes has frequencies of its own, sentinels included."""
    from models import baselines
    from models.objectives import targets

    train, held_out = data["train"], data["validation"]
    if train.objective.name == "causal":
        ids = train.windows.all_ids(), held_out.windows.all_ids()
        return {
            "unigram": baselines.unigram_losses(*ids, vocabulary),
            "bigram": baselines.bigram_losses(*ids, vocabulary),
        }
    seen = targets(train) if train.objective.name == "span" else train.windows.all_ids()
    return {"unigram": baselines.unigram_target_losses(seen, targets(held_out), vocabulary)}
