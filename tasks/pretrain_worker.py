"""What a worker process does to pre-train a model: tokens in, a saved model and its figures out."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.pretrain import PretrainRecipe
from tasks.settings import Execution

if TYPE_CHECKING:
    from models.objectives import Examples, Objective
    from tasks.speed import Settings


def train(
    tokens: Path, folder: Path, recipe: PretrainRecipe, execution: Execution, start: Path | None
) -> dict[str, Any]:
    """From fresh weights or, with `start`, from those of a saved model; its tokenizer is the one of the tokens.

    The checkpoints stay until all that belongs to the step is done: `training.finish`.
    """
    from transformers import AutoTokenizer

    from models import architectures, objectives
    from tasks import notes, parallel, speed, step_memory, training

    recipe = recipe.with_rates()
    tokenizer = AutoTokenizer.from_pretrained(tokens / "tokenizer")
    if start:
        model = architectures.load(start, dtype="float32")
    else:
        tokenizer = architectures.with_added_tokens(tokenizer, recipe.family, recipe.context)
        model = architectures.fresh_model(recipe.size, tokenizer, seed=recipe.seed, family=recipe.family)
    settings = speed.choose(
        model, speed.facts_of(execution), execution, precision=recipe.precision,
        batch=parallel.share(recipe.batch, parallel.world()), context=recipe.context, tokens=recipe.tokens,
    )  # fmt: skip
    notes.note(folder, str(settings))
    model = settings.prepare(model)
    objective = objectives.objective_of(model, tokenizer, seed=recipe.seed, apart=recipe.documents == "apart")
    data = {split: _examples(tokens / "tokens" / split, recipe, objective) for split in ("train", "validation")}
    trainer = _trainer(model, data, folder, recipe, execution, settings)
    before = {"loss_before": _mean_loss(model, data["validation"])} if start else {}  # on the Trainer's device
    watch = None
    if recipe.evaluations:
        trainer.add_callback(_sampler(folder, tokenizer, data["validation"], recipe.context))
        foreseen = step_memory.of_windows(model, settings, context=recipe.context, documents=objective.apart)
        watch = step_memory.watch(model, folder, foreseen, device=settings.device)
        trainer.add_callback(watch)
    figures = training.run(
        trainer, folder, tokens_per_step=recipe.batch * recipe.context, bf16=settings.precision != "fp32",
        flops_per_token=_flops_per_token(model, data["train"], recipe.context),
    )  # fmt: skip
    figures["execution"] |= settings.record() | (watch.figures() if watch else {})
    loss = trainer.evaluate()["eval_loss"]
    baselines = _baselines(model, data, max(tokenizer.get_vocab().values()) + 1) if recipe.evaluations else {}
    parallel.save(trainer, model, folder / "model")
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(folder / "model")
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
        "tokens": figures["steps"] * recipe.batch * recipe.context,
        "parameters": total,
        "non_embedding": total - model.get_input_embeddings().weight.numel() - _learnt_positions(model),
    }


def _trainer(
    model: Any, data: Mapping[str, "Examples"], folder: Path, recipe: PretrainRecipe, execution: Execution,
    settings: "Settings",
) -> Any:  # fmt: skip
    from transformers import TrainingArguments

    from models import objectives
    from models.optimizers import MuonAdamW
    from tasks import parallel, speed, training

    objective, held_out = data["train"].objective, data["validation"]
    steps = max(1, len(data["train"]) // recipe.batch)
    at_once = parallel.evaluation_batch(len(held_out), most=objectives.held_out_batch(model, held_out))
    arguments = training.arguments(
        folder, seed=recipe.seed, device=settings.device, steps=steps, batch=recipe.batch,
        learning_rate=recipe.learning_rate, warmup_steps=max(1, round(recipe.warmup * steps)),
        per_device_eval_batch_size=at_once, prediction_loss_only=True,
        eval_strategy="steps" if recipe.evaluations else "no", eval_steps=max(1, steps // max(1, recipe.evaluations)),
        **parallel.arguments(execution),
    )  # fmt: skip
    optimizer = MuonAdamW(model, lr=recipe.learning_rate, embedding_lr=recipe.embedding_learning_rate)
    trainer = speed.trainer_class(settings)(
        model, TrainingArguments(**arguments | settings.arguments()), train_dataset=data["train"],
        eval_dataset=held_out, data_collator=objective.batch,
        compute_loss_func=partial(objectives.loss, shifted=objective.name == "causal"),
    )  # fmt: skip
    trainer.optimizer = optimizer  # as an argument the Trainer refuses it under FSDP
    return trainer


def _examples(folder: Path, recipe: PretrainRecipe, objective: "Objective") -> "Examples":
    from models.objectives import Examples
    from models.packing import PackedWindows

    tokens = recipe.tokens if folder.name == "train" else recipe.validation_tokens
    return Examples(PackedWindows(folder, recipe.mixture, context=recipe.context, tokens=tokens), objective)


def _sampler(folder: Path, tokenizer: Any, held_out: "Examples", context: int) -> Any:
    """The callback that shows what the model says: it continues documents, or fills what was taken out of windows."""
    from models.objectives import Causal, Span
    from tasks import samples

    objective = held_out.objective
    if isinstance(objective, Causal):
        return samples.continuing(folder, tokenizer, held_out.windows.streams, begin=objective.begin, longest=context)
    gaps = objective.sentinels if isinstance(objective, Span) else ()
    return samples.filling(folder, tokenizer, held_out, longest=context, objective=objective.name, gaps=gaps)


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
