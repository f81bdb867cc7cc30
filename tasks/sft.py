"""Instruction fine-tuning with TRL's SFTTrainer: LoRA on a base model, or all weights of a fresh one as the control."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from models.architectures import Family
from tasks import loading, steps, workers
from tasks.artifacts import Checkpoint, Dataset, Forecast, Tokenizer
from tasks.errors import LossMaskError, SourceError
from tasks.pretrain import PretrainRecipe
from tasks.rows import read
from tasks.settings import Execution

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
MODULES = (
    "tasks.training", "tasks.loading", "models.architectures", "models.optimizers", "models.tokenizer",
    "models.exported",
)  # fmt: skip
CHECKED = 64  # examples whose loss mask is looked at before the first step


class SFTRecipe(BaseModel):
    """How a base model learns to follow instructions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mixture: dict[str, float] = Field(
        {"gloss": 1.0, "docstring": 1.0, "given": 1.0, "topic": 0.05, "name": 0.03, "reply": 0.03},
        description="Share of each kind of instruction in an epoch; kinds that the data lacks are left out.",
    )
    epochs: float = Field(3.0, gt=0, le=100, description="Passes over the mixture.")
    batch: int = Field(16, ge=1, le=4096, description="Examples per step.")
    learning_rate: float = Field(1e-2, gt=0, lt=1, description="Peak learning rate of the adapter.")
    embeddings: bool = Field(True, description="Also train the token embeddings, the tied head with them.")
    rank: int = Field(64, ge=1, le=1024, description="Rank of the LoRA matrices, on every linear layer.")
    load: loading.Load = Field(
        "fp32", description="Precision of the frozen base while the adapter trains; int8 and int4 need bitsandbytes."
    )
    max_length: int = Field(128, ge=16, le=8192, description="Examples of more tokens are left out.")
    seed: int = Field(
        1, ge=0, description="Of the adapter's initial weights, the choice and the order of the examples."
    )


class ScratchRecipe(BaseModel):
    """The control: the same instructions, all weights, no pre-training, as many tokens as both stages together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sft: SFTRecipe
    family: Family = Field(description="As in pre-training.")
    size: int = Field(ge=0, description="As in pre-training. 0: what the fit picked.")
    tokens: int = Field(
        ge=0, description="Tokens of pre-training, which come on top of the epochs. 0: what the fit picked."
    )
    learning_rate: float = Field(gt=0, lt=1, description="Peak learning rate of the matrices, as in pre-training.")
    embedding_learning_rate: float = Field(
        gt=0, lt=1, description="Peak learning rate of the embeddings, as in pre-training."
    )
    seed: int = Field(ge=0, description="Of the initial weights.")


def scratch_recipe(sft: SFTRecipe, pretrain: PretrainRecipe) -> ScratchRecipe:
    """The control of a pre-training: its optimiser and seed, the fine-tuning's instructions; it has no frozen base."""
    pretrain = pretrain.with_rates()
    return ScratchRecipe(
        sft=sft.model_copy(update={"load": "fp32"}), family=pretrain.family, size=pretrain.size,
        tokens=pretrain.tokens, learning_rate=pretrain.learning_rate,
        embedding_learning_rate=pretrain.embedding_learning_rate, seed=pretrain.seed,
    )  # fmt: skip


def step(recipe: SFTRecipe, base: str, dataset: str) -> steps.Step:
    quantised = ("bitsandbytes",) if recipe.load in loading.QUANTISED else ()
    return steps.Step(
        stage="sft", name="lora", recipe=recipe, inputs={"base": base, "dataset": dataset},
        libraries=(*LIBRARIES, *quantised), modules=MODULES,
    )  # fmt: skip


def scratch_step(recipe: ScratchRecipe, tokenizer: str, forecast: str, dataset: str) -> steps.Step:
    return steps.Step(
        stage="sft", name="from-scratch", recipe=recipe,
        inputs={"tokenizer": tokenizer, "forecast": forecast, "dataset": dataset},
        libraries=LIBRARIES, modules=MODULES,
    )  # fmt: skip


@task(task_run_name="fine-tune with LoRA", cache_policy=NO_CACHE)
def finetune(base: Checkpoint, dataset: Dataset, recipe: SFTRecipe, execution: Execution) -> Checkpoint:
    """The merged model in `model/`, in fp32 however the base was loaded; the adapter alone in `adapter/`."""
    loading.require(recipe.load)
    this = step(recipe, base.key, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        return workers.call(
            _lora, base.model, dataset.path, folder, recipe, execution.device, threads=execution.threads_each,
            processes=execution.processes, label="sft/lora", log=folder / "log",
        )  # fmt: skip

    return steps.materialise(this, Checkpoint, build, resumable=True)


def examples(path: Path, recipe: SFTRecipe, seed: int) -> list[dict[str, Any]]:
    """The instructions of one epoch as prompt and completion messages, in a fixed order.

    Raises SourceError when the file holds none of the kinds in the mixture.
    """
    rows = list(read(path))
    chosen = []
    for kind, share in sorted(recipe.mixture.items()):
        of_kind = [row for row in rows if row["kind"] == kind]
        random.Random(f"{seed}-{kind}").shuffle(of_kind)
        chosen += of_kind[: round(len(of_kind) * min(1.0, share))]
    if not chosen:
        raise SourceError(f"{path} holds no instruction of the kinds {sorted(recipe.mixture)}; change sft.mixture")
    random.Random(seed).shuffle(chosen)
    return [{"id": row["id"], **conversation(row)} for row in chosen]


def conversation(row: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt behind the turns of `history`, and the answer: of several answers only the last one is trained."""
    from models.tokenizer import asked

    return {
        "prompt": asked(row),
        "completion": [{"role": "assistant", "content": row["response"]}],
    }


def _lora(base: Path, data: Path, folder: Path, recipe: SFTRecipe, device: str) -> dict[str, Any]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer

    from models.generation import positions
    from tasks import training

    tokenizer = AutoTokenizer.from_pretrained(base)
    loading.require_chat_template(tokenizer, base)
    model = loading.base_model(base, recipe.load, device)
    torch.manual_seed(recipe.seed)
    adapter = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM",
        # the tokens of the chat template never occurred in pre-training
        modules_to_save=[loading.embedding_of(model)] if recipe.embeddings else None,
        ensure_weight_tying=recipe.embeddings,
    )  # fmt: skip
    model = get_peft_model(model, adapter)
    rates = {"lr": recipe.learning_rate, "embedding_lr": recipe.learning_rate}
    rows = examples(data / "instructions" / "train.jsonl", recipe, recipe.seed)
    rows = _fitting(tokenizer, rows, min(recipe.max_length, positions(model)), folder)
    trainer = _trainer(model, tokenizer, rows, folder, recipe, device, epochs=recipe.epochs, rates=rates)
    loading.train_in_fp32(trainer.model)
    figures = training.run(trainer, folder, tokens_per_step=trainer.tokens_per_step)
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


def _trainer(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], folder: Path, recipe: SFTRecipe, device: str, *,
    epochs: float, rates: dict[str, float],
) -> Any:  # fmt: skip
    """A trainer whose loss mask has been checked, with the examples of all epochs in order."""
    from datasets import Dataset as Rows
    from trl import SFTConfig

    from tasks import training

    count = max(1, round(epochs * len(rows) / recipe.batch))
    arguments = training.arguments(
        folder, seed=recipe.seed, device=device, steps=count, batch=recipe.batch,
        learning_rate=recipe.learning_rate, max_length=recipe.max_length,
        # the completion says which turn is trained, the template's marks which part of a turn; TRL trains what is both
        assistant_only_loss=_marks_answers(tokenizer, rows[0]),
        train_sampling_strategy="sequential", dataset_num_proc=None,
        # weights in bf16 multiply with nothing else, so the processor has no say then
        **({} if recipe.load == "fp32" else {"bf16": True}),
    )  # fmt: skip
    trainer = _answer_trainer(rates)(
        model, args=SFTConfig(**arguments), train_dataset=Rows.from_list(rows), processing_class=tokenizer
    )
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    trainer.trained_share = check_mask(trainer, rows, lengths, folder)
    order = _order(lengths, batch=recipe.batch, steps_=count, seed=recipe.seed)
    trainer.train_dataset = trainer.train_dataset.select(order)
    trainer.tokens_per_step = sum(lengths) / len(lengths) * recipe.batch
    return trainer


def _answer_trainer(rates: dict[str, float]) -> Any:
    from transformers import Trainer
    from trl import SFTTrainer

    from models.optimizers import MuonAdamW

    class AnswerTrainer(SFTTrainer):
        """TRL's own loss without its per-token statistics, which take half of a step on a CPU."""

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


@task(task_run_name="fine-tune without pre-training", cache_policy=NO_CACHE)
def train_from_scratch(
    tokenizer: Tokenizer, forecast: Forecast, dataset: Dataset, recipe: ScratchRecipe, execution: Execution
) -> Checkpoint:
    """The control of pre-training: a fresh model of the same size that sees instructions only, for the same tokens."""
    this = scratch_step(recipe, tokenizer.key, forecast.key, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        size, tokens = (getattr(recipe, name) or int(forecast.summary[name]) for name in ("size", "tokens"))
        return workers.call(
            _scratch, tokenizer.path / "tokenizer", dataset.path, folder, recipe, size, tokens, execution.device,
            threads=execution.threads_each, processes=execution.processes, label="sft/from-scratch", log=folder / "log",
        )  # fmt: skip

    return steps.materialise(this, Checkpoint, build, resumable=True)


def _scratch(
    tokens: Path, data: Path, folder: Path, recipe: ScratchRecipe, size: int, extra_tokens: int, device: str
) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from models.architectures import fresh_model
    from models.generation import positions
    from tasks import training

    tokenizer = AutoTokenizer.from_pretrained(tokens)
    model = fresh_model(size, tokenizer, seed=recipe.seed, family=recipe.family)
    rows = examples(data / "instructions" / "train.jsonl", recipe.sft, recipe.sft.seed)
    rows = _fitting(tokenizer, rows, min(recipe.sft.max_length, positions(model)), folder)
    mean = sum(_lengths(tokenizer, rows)) / len(rows)
    epochs = recipe.sft.epochs + extra_tokens / (mean * len(rows))
    rates = {"lr": recipe.learning_rate, "embedding_lr": recipe.embedding_learning_rate}
    trainer = _trainer(model, tokenizer, rows, folder, recipe.sft, device, epochs=epochs, rates=rates)
    figures = training.run(trainer, folder, tokens_per_step=trainer.tokens_per_step)
    trainer.model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    training.finish(folder)
    return {**figures, **_figures(trainer, rows), "epochs": round(epochs, 2)}


def _fitting(tokenizer: Any, rows: list[dict[str, Any]], max_length: int, folder: Path) -> list[dict[str, Any]]:
    """Those without letters of control tokens that `max_length` tokens hold, answer included. SourceError for none."""
    from tasks.training import without_control_tokens

    rows = without_control_tokens(rows, tokenizer, folder, messages=lambda row: row["prompt"] + row["completion"])
    kept = [row for row, length in zip(rows, _lengths(tokenizer, rows), strict=True) if length <= max_length]
    if not kept:
        raise SourceError(f"all {len(rows)} instructions have more than {max_length} tokens; raise sft.max_length")
    return kept


def _lengths(tokenizer: Any, rows: list[dict[str, Any]]) -> list[int]:
    chats = [row["prompt"] + row["completion"] for row in rows]
    return [len(ids) for ids in tokenizer.apply_chat_template(chats, tokenize=True, return_dict=True)["input_ids"]]
