"""What a worker process does to fine-tune a model: instructions in, a saved model and its figures out."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import loading
from tasks.errors import LossMaskError, SourceError
from tasks.settings import Execution
from tasks.sft import ScratchRecipe, SFTRecipe, examples

if TYPE_CHECKING:
    from tasks.speed import Settings
    from tasks.step_memory import Foreseen

CHECKED = 64  # examples whose loss mask is looked at before the first step


def lora(base: Path, data: Path, folder: Path, recipe: SFTRecipe, execution: Execution) -> dict[str, Any]:
    """Trains an adapter on the model in `base` and merges it."""
    import torch
    from peft import get_peft_model
    from transformers import AutoTokenizer

    from models import adapters
    from models.generation import positions
    from tasks import training

    tokenizer = AutoTokenizer.from_pretrained(base)
    loading.require_chat_template(tokenizer, base)
    model = loading.base_model(base, recipe.load, execution.device)
    torch.manual_seed(recipe.seed)
    # the tokens of the chat template never occurred in pre-training
    model = get_peft_model(model, adapters.lora(model, recipe.rank, embeddings=recipe.embeddings))
    rates = {"lr": recipe.learning_rate, "embedding_lr": recipe.learning_rate}
    rows = examples(data / "instructions" / "train.jsonl", recipe, recipe.seed)
    rows, lengths = _fitting(tokenizer, rows, min(recipe.max_length, positions(model)), folder)
    trainer = _trainer(
        model, tokenizer, rows, folder, recipe, execution, longest=max(lengths), epochs=recipe.epochs, rates=rates
    )
    adapters.train_in_fp32(trainer.model)
    figures = _run(trainer, folder)
    loading.save_adapter(trainer.model, folder / "adapter", base.parent.name)
    if recipe.load != "fp32":
        trainer.model = loading.adapted(base, folder / "adapter")
    probes = [{"prompt": row["prompt"], "answer": row["completion"][0]["content"]} for row in rows]
    training.record_export(trainer, tokenizer, probes, folder)
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    training.finish(folder)
    return {**figures, **_figures(trainer, rows)}


def scratch(
    tokens: Path, data: Path, folder: Path, recipe: ScratchRecipe, size: int, extra_tokens: int, execution: Execution
) -> dict[str, Any]:
    """Trains all weights of a fresh model, for `extra_tokens` beside the epochs."""
    from transformers import AutoTokenizer

    from models.architectures import fresh_model
    from models.generation import positions
    from tasks import training

    tokenizer = AutoTokenizer.from_pretrained(tokens)
    model = fresh_model(size, tokenizer, seed=recipe.seed, family=recipe.family)
    rows = examples(data / "instructions" / "train.jsonl", recipe.sft, recipe.sft.seed)
    rows, lengths = _fitting(tokenizer, rows, min(recipe.sft.max_length, positions(model)), folder)
    mean = sum(lengths) / len(rows)
    epochs = recipe.sft.epochs + extra_tokens / (mean * len(rows))
    rates = {"lr": recipe.learning_rate, "embedding_lr": recipe.embedding_learning_rate}
    trainer = _trainer(
        model, tokenizer, rows, folder, recipe.sft, execution, longest=max(lengths), epochs=epochs, rates=rates
    )
    figures = _run(trainer, folder)
    trainer.model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    training.finish(folder)
    return {**figures, **_figures(trainer, rows), "epochs": round(epochs, 2)}


def _trainer(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], folder: Path, recipe: SFTRecipe, execution: Execution, *,
    longest: int, epochs: float, rates: dict[str, float],
) -> Any:  # fmt: skip
    """A trainer whose loss mask has been checked, with the examples of all epochs in order.

    `longest` of them has so many tokens.
    """
    from datasets import Dataset as Rows
    from trl import SFTConfig

    from models import objectives
    from tasks import notes, training

    settings = _settings(model, recipe, execution, longest)
    notes.note(folder, str(settings))
    if model._supports_sdpa:
        model.set_attn_implementation(settings.attention)
    count = max(1, round(epochs * len(rows) / recipe.batch))
    arguments = training.arguments(
        folder, seed=recipe.seed, device=settings.device, steps=count, batch=recipe.batch,
        learning_rate=recipe.learning_rate, max_length=recipe.max_length,
        # the completion says which turn is trained, the template's marks which part of a turn; TRL trains what is both
        assistant_only_loss=_marks_answers(tokenizer, rows[0]),
        train_sampling_strategy="sequential", dataset_num_proc=None,
    )  # fmt: skip
    trainer = _answer_trainer(rates, settings)(
        model, args=SFTConfig(**arguments | settings.arguments()), train_dataset=Rows.from_list(rows),
        processing_class=tokenizer, compute_loss_func=partial(objectives.loss, shifted=True),
    )  # fmt: skip
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    trainer.trained_share = check_mask(trainer, rows, lengths, folder)
    order = _order(lengths, batch=recipe.batch, steps_=count, seed=recipe.seed)
    trainer.train_dataset = trainer.train_dataset.select(order)
    trainer.settings, trainer.recipe = settings, recipe
    trainer.tokens_per_step = sum(lengths) / len(lengths) * recipe.batch
    return trainer


def _settings(model: Any, recipe: SFTRecipe, execution: Execution, longest: int) -> "Settings":
    """How a fine-tuning is executed; of examples of `longest` tokens, as many at once as fit."""
    from tasks import micro_batch, speed

    facts = speed.facts_of(execution)
    # weights in bf16 multiply with nothing else, so the processor has no say then
    precision = speed.precision_of(facts, "auto" if recipe.load == "fp32" else "bf16-autocast")
    attention = speed.attention_of(model, facts, precision, longest)
    whole = speed.Settings(
        facts.device, precision, attention, False, "only in pre-training", facts.threads, recipe.batch, recipe.batch,
        execution.checkpointing,
    )  # fmt: skip
    base, step = _planned(model, recipe, whole, longest)
    peak = micro_batch.peak_of(base, step)
    return replace(whole, micro_batch=micro_batch.chosen(recipe.batch, execution.micro_batch, peak, facts.free_bytes))


def _planned(model: Any, recipe: SFTRecipe, settings: "Settings", length: int) -> tuple[Any, Any]:
    """The model without its adapter, and a step of examples of `length` tokens as the memory plan knows it."""
    from peft import PeftModel

    from tasks import micro_batch

    step = micro_batch.step_of(settings, length)
    if not isinstance(model, PeftModel):
        return model, step
    held = {} if recipe.load == "fp32" else {"precision": recipe.load, "autocast": True}
    adapter = {"lora": recipe.rank, "embeddings": recipe.embeddings, **held}
    return model.get_base_model(), step.model_copy(update=adapter)


def _run(trainer: Any, folder: Path) -> dict[str, Any]:
    from tasks import step_memory, training

    in_bf16 = trainer.settings.precision != "fp32"
    watch = step_memory.watch(trainer.model, folder, _foreseen(trainer), device=trainer.settings.device)
    trainer.add_callback(watch)
    figures = training.run(trainer, folder, tokens_per_step=trainer.tokens_per_step, bf16=in_bf16)
    figures["execution"] |= trainer.settings.record() | watch.figures()
    return figures


def _foreseen(trainer: Any) -> "Foreseen":
    """What is foreseen of a step's memory, from the longest of its micro-batches."""
    from tasks import step_memory

    settings, lengths = trainer.settings, [len(ids) for ids in trainer.train_dataset["input_ids"]]

    def foreseen(number: int) -> tuple[int | None, int]:
        longest = max(lengths[number * settings.batch : (number + 1) * settings.batch], default=1)
        model, step = _planned(trainer.model, trainer.recipe, settings, longest)
        return step_memory.forecast(model, step), 0

    return foreseen


def _answer_trainer(rates: dict[str, float], settings: "Settings") -> Any:
    from transformers import Trainer
    from trl import SFTTrainer

    from models.optimizers import MuonAdamW
    from tasks import speed

    lean: Any = speed.trainer_class(settings, SFTTrainer)

    class AnswerTrainer(lean):
        """The Trainer's `compute_loss`, without TRL's per-token statistics, which take half of a step on a CPU."""

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return Trainer.compute_loss(self, *args, **kwargs)

        def create_optimizer(self, model: Any = None) -> Any:
            # made here and not before: to resume an adapter, peft puts new parameters into the model
            if self.optimizer is None:  # type: ignore[has-type]
                self.optimizer = MuonAdamW(self.model, **rates)
            return self.optimizer

    return AnswerTrainer


def _marks_answers(tokenizer: Any, row: Mapping[str, Any]) -> bool:
    """Whether the chat template marks the assistant's part with {% generation %}."""
    encoded = tokenizer.apply_chat_template(
        row["prompt"] + row["completion"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return 1 in encoded["assistant_masks"]


def check_mask(trainer: Any, rows: list[dict[str, Any]], lengths: list[int], folder: Path) -> float:
    """The mean share of trained tokens, after a look at what the optimiser will see.

    Takes examples of all `lengths` (tokens of each in the trainer's prepared data), through the trainer's collator.
    Writes `loss_mask.json` and `loss_mask.html`. Raises LossMaskError for an example that trains anything but its
    answer and stop token.
    """
    from models import loss_mask

    data, tokens = trainer.train_dataset, loss_mask.tokens_of(trainer.processing_class)
    kept = set(data["id"])
    for row in rows:
        if row["id"] not in kept:
            raise LossMaskError(f"{_named(row)}: nothing is trained, so TRL left it out.\n{loss_mask.MARK}.")
    picked = list(data.select(loss_mask.spread(lengths, CHECKED)))
    collated = trainer.data_collator(picked)
    batch = {name: collated[name].tolist() for name in ("input_ids", "labels", "attention_mask")}
    answers = [row["completion"][0]["content"] for row in picked]
    findings = loss_mask.inspect_batch(batch, answers, tokens, max_length=trainer.args.max_length)
    for row, found in zip(picked, findings, strict=True):
        if found.problem:
            raise LossMaskError(f"{_named(row)}: {loss_mask.explained(found, tokens)}")
    made = loss_mask.summary([row["id"] for row in picked], findings, tokens, examples=len(rows))
    text = json.dumps(made, ensure_ascii=False) + "\n"
    (folder / "loss_mask.json").write_text(text, encoding="utf-8")
    (folder / "loss_mask.html").write_text(loss_mask.html_page(made), encoding="utf-8")
    return made["share"]["mean"]


def _named(row: Mapping[str, Any]) -> str:
    return f"the loss mask of example {row['id']!r} ({row['prompt'][-1]['content'][:60]!r})"


def _order(lengths: list[int], *, batch: int, steps_: int, seed: int) -> list[int]:
    """Which example stands where in all epochs: batches of like length, shuffled anew in each epoch.

    Laid out beforehand, so that the order hangs on no random state that a resumed run would have to restore.
    """
    order: list[int] = []
    epoch = 0
    while len(order) < steps_ * batch:
        draw = random.Random(f"{seed}-{epoch}")
        shuffled = draw.sample(range(len(lengths)), len(lengths))
        pools = [shuffled[i : i + 50 * batch] for i in range(0, len(shuffled), 50 * batch)]
        grouped = [row for pool in pools for row in sorted(pool, key=lengths.__getitem__)]
        batches = [grouped[i : i + batch] for i in range(0, len(grouped), batch)]
        draw.shuffle(batches)
        order += [row for each in batches for row in each]
        epoch += 1
    return order[: steps_ * batch]


def _figures(trainer: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "examples": len(rows),
        "trained_share": trainer.trained_share,
        "tokens": round(trainer.tokens_per_step * trainer.state.global_step),
    }


def _fitting(
    tokenizer: Any, rows: list[dict[str, Any]], max_length: int, folder: Path
) -> tuple[list[dict[str, Any]], list[int]]:
    """Those without letters of control tokens that `max_length` tokens hold, answer included, and their tokens.

    A longer one would lose its answer, which stands at the end. Raises SourceError when none is left.
    """
    from tasks.training import without_control_tokens

    rows = without_control_tokens(rows, tokenizer, folder, messages=lambda row: row["prompt"] + row["completion"])
    kept = [(row, n) for row, n in zip(rows, _lengths(tokenizer, rows), strict=True) if n <= max_length]
    if not kept:
        raise SourceError(f"all {len(rows)} instructions have more than {max_length} tokens; raise sft.max_length")
    return [row for row, _ in kept], [n for _, n in kept]


def _lengths(tokenizer: Any, rows: list[dict[str, Any]]) -> list[int]:
    chats = [row["prompt"] + row["completion"] for row in rows]
    return [len(ids) for ids in tokenizer.apply_chat_template(chats, tokenize=True, return_dict=True)["input_ids"]]
