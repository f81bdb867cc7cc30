"""Trains the tokenizer on the training side of the text and encodes every split once."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import steps, workers
from tasks.artifacts import Checkpoint, Dataset, Tokenizer
from tasks.settings import Execution

SPLITS = ("train", "validation", "test")


class TokenizerRecipe(BaseModel):
    """A byte-level BPE of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: int = Field(
        2048, ge=260, le=65536, description="Number of tokens, the 256 bytes and the special ones included."
    )
    context: int = Field(256, ge=32, le=8192, description="Longest sequence in tokens that a model with it will see.")
    characters: int = Field(
        2_500_000, ge=10_000, description="At most so many characters of each domain and split are encoded."
    )


def step(recipe: TokenizerRecipe, dataset: str) -> steps.Step:
    return steps.Step(
        stage="tokenizer",
        name="bpe",
        recipe=recipe,
        inputs={"dataset": dataset},
        libraries=("tokenizers", "transformers"),
        modules=("models.tokenizer", "models.packing", "models.fertility"),
    )


@task(task_run_name="train the tokenizer", cache_policy=NO_CACHE)
def train_tokenizer(dataset: Dataset, recipe: TokenizerRecipe, execution: Execution) -> Tokenizer:
    """A tokenizer folder with `tokens/<split>/<domain>.bin` beside it (`.bin32` for a vocabulary above 65,536)."""
    this = step(recipe, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        arguments = (dataset.path / "text", folder, recipe.model_dump())
        return workers.call(_build, *arguments, threads=1, processes=execution.processes, label="tokenizer")

    return steps.materialise(this, Tokenizer, build)


class EncodeRecipe(BaseModel):
    """How much is encoded with a tokenizer that there is already."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    characters: int = Field(
        2_500_000, ge=10_000, description="At most so many characters of each domain and split are encoded."
    )


def encoding_step(recipe: EncodeRecipe, dataset: str, model: str) -> steps.Step:
    return steps.Step(
        stage="tokenizer", name="encoded", recipe=recipe, inputs={"dataset": dataset, "model": model},
        libraries=("tokenizers", "transformers"), modules=("models.tokenizer", "models.packing", "models.fertility"),
    )  # fmt: skip


@task(task_run_name="encode with the model's tokenizer", cache_policy=NO_CACHE)
def encode(dataset: Dataset, model: Checkpoint, recipe: EncodeRecipe, execution: Execution) -> Tokenizer:
    """As `train_tokenizer`, with the tokenizer of a model: one that is continued keeps its vocabulary."""
    this = encoding_step(recipe, dataset.key, model.key)

    def build(folder: Path) -> dict[str, Any]:
        arguments = (dataset.path / "text", folder, recipe.characters, model.model)
        return workers.call(_encode_again, *arguments, threads=1, processes=execution.processes, label="tokenizer")

    return steps.materialise(this, Tokenizer, build)


def _encode_again(text: Path, folder: Path, characters: int, model: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.backend_tokenizer.no_truncation()  # some are saved with the length that they were last used at
    tokenizer.backend_tokenizer.no_padding()
    return _encode(_texts(text, characters), tokenizer, folder)


def _build(text: Path, folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    from models import tokenizer as bpe

    texts = _texts(text, recipe["characters"])
    passages = [passage for domain in texts["train"].values() for passage in domain]
    tokenizer = bpe.train_tokenizer(passages, vocabulary=recipe["vocabulary"], context=recipe["context"])
    return _encode(texts, tokenizer, folder)


def _texts(text: Path, characters: int) -> dict[str, dict[str, list[str]]]:
    return {split: _read(text / f"{split}.jsonl", characters) for split in SPLITS}


def _encode(texts: Mapping[str, Mapping[str, list[str]]], tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Writes the tokenizer and the token streams, each document between the tokenizer's own begin (if any) and end.

    A text that holds the letters of a control token is encoded as the text that it is.
    """
    from models.fertility import fit, share_used, single_bytes
    from models.packing import read_streams, write_stream
    from models.tokenizer import begins_with

    tokenizer.save_pretrained(folder / "tokenizer")
    begin, end = begins_with(tokenizer), tokenizer.eos_token_id
    largest = max(tokenizer.get_vocab().values())  # not always the last of a number without gaps
    encoder = tokenizer.backend_tokenizer
    encoder.encode_special_tokens = True  # the library's name for: control tokens in a text are text
    single = single_bytes(encoder.get_vocab())
    counts: dict[str, dict[str, int]] = {split: {} for split in texts}
    measured = {}
    started = time.perf_counter()
    for split, domains in texts.items():
        (folder / "tokens" / split).mkdir(parents=True)
        # the places of the tokens take time to keep, and only the measures need them
        encoding = encoder.encode_batch if split == "validation" else encoder.encode_batch_fast
        for domain, documents in domains.items():
            rows = encoding(documents, add_special_tokens=False)
            ids = [i for row in rows for i in (*begin, *row.ids, end)]
            file = folder / "tokens" / split / f"{domain}.bin"
            counts[split][domain] = write_stream(file, ids, vocabulary=largest + 1)
            if split == "validation":
                measured[domain] = fit(documents, [(row.ids, row.offsets) for row in rows], single)
    speed = sum(sum(each.values()) for each in counts.values()) / (time.perf_counter() - started)
    train = list(read_streams(folder / "tokens" / "train").values())
    return {
        "vocabulary": len(tokenizer), "context": tokenizer.model_max_length,
        "vocabulary_used": round(share_used(train, largest + 1), 4), "tokens": counts, **_by_measure(measured),
        "execution": {"tokens_per_second": round(speed)},
    }  # fmt: skip


def _by_measure(measured: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The measures of each domain as the domains of each measure."""
    names = dict.fromkeys(name for found in measured.values() for name in found)
    return {name: {domain: round(found[name], 3) for domain, found in measured.items() if name in found}
            for name in names}  # fmt: skip


def _read(path: Path, characters: int) -> dict[str, list[str]]:
    """The first `characters` of each domain, whole documents, in the file's order."""
    domains: dict[str, list[str]] = {}
    used: dict[str, int] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if used.get(row["domain"], 0) < characters:
                domains.setdefault(row["domain"], []).append(row["text"])
                used[row["domain"]] = used.get(row["domain"], 0) + len(row["text"])
    return domains
