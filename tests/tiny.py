"""A small synthetic encyclopaedia: real files in the layout of a data set, learnable in seconds."""

import json
import random
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks import steps
from tasks.artifacts import Dataset, Tokenizer
from tasks.settings import Execution
from tasks.tokenizer import TokenizerRecipe, train_tokenizer

KINDS = ("river", "poet", "village", "castle", "painter", "lake", "mountain", "singer")
PLACES = ("France", "Spain", "Norway", "Chile", "Kenya", "Japan", "Canada", "Peru")
EXECUTION = Execution(threads=1, processes=1, device="cpu")


class TinyRecipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    articles: int = 240
    seed: int = 0


def dataset(recipe: TinyRecipe = TinyRecipe()) -> Dataset:
    """The finished data step in the store of the test's home."""
    step = steps.Step(stage="data", name="dataset", recipe=recipe)
    return steps.materialise(step, Dataset, lambda folder: _write(folder, recipe))


def tokenizer(data: Dataset, **changes: Any) -> Tokenizer:
    recipe = TokenizerRecipe(**{"vocabulary": 320, "context": 96, **changes})
    return train_tokenizer.fn(data, recipe, EXECUTION)


def articles(recipe: TinyRecipe) -> list[dict[str, str]]:
    draw = random.Random(recipe.seed)
    rows = []
    for number in range(recipe.articles):
        name = "".join(draw.choice(("ba", "ko", "li", "mu", "ra", "te", "vi", "zo")) for _ in range(3)).capitalize()
        kind, place = draw.choice(KINDS), draw.choice(PLACES)
        rows.append(
            {
                "id": f"tiny:{number}", "group": f"{name}-{number}", "title": name,
                "text": f"{name} is a {kind} in {place}. It is known far beyond {place} as a {kind}.",
                "gloss": f"{kind.capitalize()} in {place}",
            }
        )  # fmt: skip
    return rows


def _write(folder: Path, recipe: TinyRecipe) -> dict[str, Any]:
    rows = articles(recipe)
    cuts = {"train": rows[: len(rows) * 7 // 10], "validation": rows[len(rows) * 7 // 10 : len(rows) * 17 // 20]}
    for split, part in {**cuts, "test": rows[len(rows) * 17 // 20 :]}.items():
        origin = {"source": "tests", "licence": "none"}
        text = [
            {
                "id": r["id"],
                "group": r["group"],
                "domain": "encyclopaedia",
                "text": f"{r['title']}\n\n{r['text']}",
                **origin,
            }
            for r in part
        ]
        instructions = [
            {"id": r["id"], "group": r["group"], "kind": "gloss", "response": r["gloss"],
             "prompt": f"{r['title']}\n{r['text'].split('. ')[0]}.", **origin}
            for r in part
        ]  # fmt: skip
        for kind, lines in {"text": text, "instructions": instructions, "preferences": []}.items():
            path = folder / kind / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return {"articles": len(rows)}
