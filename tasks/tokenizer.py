"""Trains the tokenizer on the training side of the text and encodes every split once."""

import json
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import steps, workers
from tasks.artifacts import Dataset, Tokenizer
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
        modules=("models.tokenizer", "models.packing"),
    )


@task(task_run_name="train the tokenizer", cache_policy=NO_CACHE)
def train_tokenizer(dataset: Dataset, recipe: TokenizerRecipe, execution: Execution) -> Tokenizer:
    """A tokenizer folder with `tokens/<split>/<domain>.bin` beside it."""
    this = step(recipe, dataset.key)

    def build(folder: Path) -> dict[str, Any]:
        arguments = (dataset.path / "text", folder, recipe.model_dump())
        return workers.call(_build, *arguments, threads=1, processes=execution.processes, label="tokenizer")

    return steps.materialise(this, Tokenizer, build)


def _build(text: Path, folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    from models import tokenizer as bpe
    from models.packing import write_stream

    texts = {split: _read(text / f"{split}.jsonl", recipe["characters"]) for split in SPLITS}
    passages = [passage for domain in texts["train"].values() for passage in domain]
    tokenizer = bpe.train_tokenizer(passages, vocabulary=recipe["vocabulary"], context=recipe["context"])
    tokenizer.save_pretrained(folder / "tokenizer")
    summary: dict[str, Any] = {"vocabulary": len(tokenizer), "tokens": {}, "characters_per_token": {}}
    end = tokenizer.convert_tokens_to_ids(bpe.END)
    for split, domains in texts.items():
        (folder / "tokens" / split).mkdir(parents=True)
        for domain, documents in domains.items():
            rows = tokenizer.backend_tokenizer.encode_batch_fast(documents, add_special_tokens=False)
            ids = [i for row in rows for i in (*row.ids, end)]
            count = write_stream(folder / "tokens" / split / f"{domain}.bin", ids)
            summary["tokens"].setdefault(split, {})[domain] = count
            if split == "validation":
                letters = sum(map(len, documents))
                summary["characters_per_token"][domain] = round(letters / max(1, count - len(documents)), 3)
    return summary


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
