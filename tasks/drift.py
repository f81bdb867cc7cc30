"""The profile of each data version, and whether a new one has moved from the data that the champion was trained on."""

import heapq
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from string import ascii_letters, digits, whitespace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import progress, steps, workers
from tasks.artifacts import Artifact, Checkpoint, Dataset, Tokenizer
from tasks.errors import RegistryError, SourceError
from tasks.pointers import Pointer
from tasks.settings import Execution, home, project

STAGE, PROFILE, COMPARE = "drift", "profile", "compare"
TEXTS = {
    "text": {"text": "text"},
    "instructions": {"prompt": "prompt", "response": "response"},
    "preferences": {"prompt": "pair prompt", "chosen": "chosen", "rejected": "rejected"},
}
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
KINDS = {"letters": ascii_letters.encode(), "digits": digits.encode(), "spaces": whitespace.encode()}
ROWS = "rows by file"
SEGMENT = 50  # words whose distinct ones are counted
STRETCH = 10_000  # rows within which a repeated one is looked for
HEAD = f"| {'feature':<28} | {'index':>6} | {'chance':>6} | {'reference to current':<27} |"
RULE = f"|{'-' * 30}|{'-' * 7}:|{'-' * 7}:|{'-' * 29}|"
WINDOW = 32  # tokens of a text whose loss is taken

Measured = tuple[str, Mapping[str, Any]]  # a row's group, and measures by feature
logger = logging.getLogger("evergreen.drift")


class ProfileRecipe(BaseModel):
    """How much of a data set its profile shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: int = Field(500, ge=10, le=2000, description="Most frequent words, sources and other names listed.")
    encoded: int = Field(2000, ge=1, description="Training rows of each file that the tokenizer encodes, at most.")
    losses: int = Field(200, ge=1, description="Validation rows of each file whose loss is taken, at most.")


class DriftRecipe(BaseModel):
    """When a feature has moved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: float = Field(0.99, ge=0.5, le=0.999, description="Share of chance differences that stay below a threshold.")
    material: float = Field(0.1, ge=0, description="Index from which on a move matters; 0.1 is the usual rule.")
    draws: int = Field(10_000, ge=10_000, le=1_000_000, description="Random swaps of blocks.")
    seed: int = Field(0, ge=0, description="Of the swaps.")


@dataclass(frozen=True)
class ChampionData:
    """The data that a champion was trained on, and what is left of them: the files, a profile, both or neither."""

    model: str
    key: str
    digest: str
    dataset: Dataset | None
    profile: Artifact | None


def profile_step(recipe: ProfileRecipe, dataset: str, tokenizer: str = "", model: str = "") -> steps.Step:
    inputs = {role: key for role, key in (("dataset", dataset), ("tokenizer", tokenizer), ("model", model)) if key}
    libraries = ("tokenizers", "torch", "transformers") if model else ("tokenizers",) if tokenizer else ()
    return steps.Step(STAGE, PROFILE, recipe, inputs, libraries, ("tasks.generation",) if model else ())


def compare_step(recipe: DriftRecipe, current: str, reference: str) -> steps.Step:
    return steps.Step(STAGE, COMPARE, recipe, inputs={"current": current, "reference": reference}, libraries=("numpy",))


@task(task_run_name="profile the data", cache_policy=NO_CACHE)
def profile_data(
    dataset: Dataset, tokenizer: Tokenizer | None, model: Checkpoint | None, recipe: ProfileRecipe, execution: Execution
) -> Artifact:
    """`profile.json`: the counts of every feature of a data set, all that a later comparison needs of it."""
    this = profile_step(recipe, dataset.key, tokenizer.key if tokenizer else "", model.key if model else "")
    scorer = model.model if model else None
    encoder = tokenizer.path / "tokenizer" if tokenizer else scorer  # a model has its own
    place: dict[str, Any] = {"threads": execution.threads_each, "processes": execution.processes}

    def build(folder: Path) -> dict[str, Any]:
        made = workers.call(profile, dataset.path, recipe, encoder, scorer, execution.device, **place, label=this.title)
        profiled = {"data": {"key": dataset.key, "digest": dataset.digest}, **made}
        (folder / "profile.json").write_text(json.dumps(profiled) + "\n", encoding="utf-8")
        return {"rows": made["rows"], "features": len(made["features"]), "data_digest": dataset.digest}

    with workers.turn(execution.processes):
        return steps.materialise(this, Artifact, build)


@task(task_run_name="compare the data", cache_policy=NO_CACHE)
def compare_data(current: Artifact, reference: Artifact, recipe: DriftRecipe) -> Artifact:
    """`drift.json` and `drift.md`: which features of the current profile have moved from the reference, and how far."""

    def build(folder: Path) -> dict[str, Any]:
        found = _compare(reference.path / "profile.json", current.path / "profile.json", recipe)
        (folder / "drift.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "drift.md").write_text(markdown(found), encoding="utf-8")
        return found["summary"]

    made = steps.materialise(compare_step(recipe, current.key, reference.key), Artifact, build)
    text = (made.path / "drift.md").read_text(encoding="utf-8")
    progress.publish("drift", text, "What moved since the data of the champion")
    return made


def champion_data(name: str) -> ChampionData | None:
    """What the champion of a registered name was trained on; None without a champion, or where its tags do not say."""
    from tasks import catalogue

    try:
        version = catalogue.find(f"{name}@{catalogue.CHAMPION}")
    except RegistryError:
        return None
    key, digest = version.tags.get("data_key", ""), version.tags.get("data_digest", "")
    if not (key and digest):
        return None
    return ChampionData(f"{name}/{version.version}", key, digest, data_files(key, digest), _kept(digest))


def champion_models(name: str) -> tuple[Tokenizer | None, Checkpoint | None]:
    """The tokenizer and the model of a champion, each where the store still holds it."""
    from tasks import catalogue

    try:
        tags = catalogue.find(f"{name}@{catalogue.CHAMPION}").tags
    except RegistryError:
        return None, None
    folders = {path.name: path for path in (home() / "store").glob("*/*") if steps.read_manifest(path)}
    tokenizer, model = (folders.get(tags.get(tag, "")) for tag in ("step.tokenizer.bpe", "model_key"))
    return steps.load(tokenizer, Tokenizer) if tokenizer else None, steps.load(model, Checkpoint) if model else None


def champion_profile(
    data: ChampionData, tokenizer: Tokenizer | None, model: Checkpoint | None, recipe: ProfileRecipe,
    execution: Execution,
) -> Artifact | None:  # fmt: skip
    """For flows: profiles a champion's data where they still lie; else the profile that was kept, or None."""
    if data.dataset is not None:
        return profile_data(data.dataset, tokenizer, model, recipe, execution)
    if data.profile is None:
        remedy = "bring that version back with: git checkout <commit> data.dvc && dvc checkout data.dvc"
        logger.warning("%s: of its data %s neither files nor profile are left; %s", data.model, data.key, remedy)
    return data.profile


def announce_change(before: Dataset | ChampionData | Pointer | None, after: Dataset, name: str = "") -> bool:
    """Emits the Prefect event `evergreen.data-changed` where the content is another; whether it was emitted.

    Its resource names the `model` that the data are for, and says whether the flow `data` ran `alone`: inside a life
    cycle or a retraining the training that the change calls for follows anyway, and an automation must not start it
    once more. Only inside a run: outside of one there may be no API, and an event would start a server.
    """
    from prefect.context import FlowRunContext, TaskRunContext
    from prefect.events import emit_event

    run = FlowRunContext.get()
    unchanged = before is not None and before.digest == after.digest
    if unchanged or (run is None and TaskRunContext.get() is None):
        return False
    versions = (("before", before), ("after", after))
    payload = {role: each and {"key": each.key, "digest": each.digest} for role, each in versions}
    alone = bool(run and run.flow and run.flow.name == "data" and run.flow_run and not run.flow_run.parent_task_run_id)
    resource = {"prefect.resource.id": "evergreen.data", "evergreen.alone": str(alone).lower(), "evergreen.model": name}
    return emit_event("evergreen.data-changed", resource, payload=payload) is not None


def profile(
    path: Path, recipe: ProfileRecipe, tokenizer: Path | None = None, model: Path | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """The rows by file and the features (`models.drift.as_json`) of a data folder, read as a stream.

    Of the training side, but for the loss under a model: it knows the rows it was trained on, and all newer ones would
    look like drift. `tokenizer` holds `tokenizer.json`. Raises SourceError where there is no training row.
    """
    from models.drift import as_json, collect

    measured = [_measured(path / file / "train.jsonl", file) for file in TEXTS]
    measured += [_encoded(path, tokenizer / "tokenizer.json", recipe.encoded)] if tokenizer else []
    measured += [_losses(path, model, recipe.losses, device)] if model else []
    found = as_json(collect(chain.from_iterable(measured), names=recipe.names))
    if ROWS not in found:
        raise SourceError(f"{path} holds no training row; give a folder with train.jsonl in one of {', '.join(TEXTS)}")
    return {"rows": dict(zip(found[ROWS]["names"], map(sum, found[ROWS]["counts"]), strict=True)), "features": found}


def markdown(found: Mapping[str, Any]) -> str:
    """A comparison as a page of at most 80 columns. `found` is a `drift.json`."""
    summary, level = found["summary"], found["recipe"]["level"]
    lines = ["# Drift of the data", "", f"| | data | {' | '.join(TEXTS)} |", "|---" * (2 + len(TEXTS)) + "|"]
    for role in ("reference", "current"):
        counts = [f"{found[role]['rows'].get(file, 0):,}" for file in TEXTS]
        lines.append(f"| {role} | `{found[role]['data']['key']}` | {' | '.join(counts)} |")
    lines += [
        "", f"- moved, beyond {level:.1%} of chance differences: {summary['moved']} of {summary['features']} features;",
        f"  without any drift {summary['features'] * (1 - level):.1f} would",
        f"- moved beyond what the furthest of all features does by chance: {summary['certain']}",
        f"- of these by an index of {found['recipe']['material']} or more: {summary['material']}", "",
    ]  # fmt: skip
    for title, moved in (("Moved", True), ("Within chance", False)):
        rows = [_line(each) for each in found["features"] if each["moved"] is moved]
        lines += [f"## {title}", "", *([HEAD, RULE, *rows] if rows else ["Nothing."]), ""]
    fewest = 1 - math.log2(1 - level)  # of n blocks one swap in 2^(n-1) is as extreme as none
    few = [each["feature"] for each in found["features"] if not each["moved"] and each["blocks"] < fewest]
    for title, names in (("Too few groups to tell", few), ("In one version only", found["missing"])):
        lines += [f"## {title}", "", *(f"- {name}" for name in names), ""] if names else []
    return "\n".join(lines)


def _compare(reference: Path, current: Path, recipe: DriftRecipe) -> dict[str, Any]:
    from models.drift import compare, from_json

    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (reference, current))
    options = recipe.model_dump(include={"level", "draws", "seed"})
    moved = compare(from_json(before["features"]), from_json(after["features"]), **options)
    certain = [each for each in moved if each.family_p <= 1 - recipe.level + 1e-9]
    return {
        "recipe": recipe.model_dump(mode="json"),
        **{role: {"data": of["data"], "rows": of["rows"]} for role, of in (("reference", before), ("current", after))},
        "summary": {
            "features": len(moved), "moved": sum(each.moved for each in moved), "certain": len(certain),
            "material": sum(each.psi >= recipe.material for each in certain),
        },
        "features": [asdict(each) for each in moved],
        "missing": sorted(before["features"].keys() ^ after["features"].keys()),
    }  # fmt: skip


def _line(each: Mapping[str, Any]) -> str:
    """The quantile, or the name, that moved most stands for the feature."""
    before, after = each["reference"], each["current"]
    if "median" in before:
        name = max(("median", "p10", "p90"), key=lambda at: abs(math.log((after[at] + 1e-9) / (before[at] + 1e-9))))
        ends = [f"{side[name]:,.0f}" if side[name] >= 100 else f"{side[name]:.3g}" for side in (before, after)]
    else:
        name = next(iter(before))
        ends = [f"{side[name]:.0%}" if side[name] >= 0.1 else f"{side[name]:.1%}" for side in (before, after)]
    change = f"{name.replace('|', '/')[:12]} {' to '.join(ends)}"
    return f"| {each['feature'].split(' @')[0]:<28} | {each['psi']:>6.3f} | {each['threshold']:>6.3f} | {change:<27} |"


def data_files(key: str, digest: str) -> Dataset | None:
    """The data with this digest where they lie: in the store, or as the version in `data/`."""
    for folder in (home() / "store" / "data" / key, project() / "data"):
        if folder.is_dir() and steps.folder_digest(steps.hash_files(folder)) == digest:
            return Dataset(stage="data", name="dataset", key=key, digest=digest, path=folder)
    return None


def _kept(digest: str) -> Artifact | None:
    made = (steps.load(folder, Artifact) for folder in reversed(steps.finished(STAGE, PROFILE)))
    return next((each for each in made if each.summary["data_digest"] == digest), None)


def _sample(path: Path, rows: int) -> list[dict[str, Any]]:
    """The rows whose ids have the smallest hashes: the same ones in whatever order, whatever else is in the file."""
    from models.prose import place
    from tasks.rows import read

    return heapq.nsmallest(rows, read(path) if path.exists() else (), key=lambda row: place(0, row["id"]))


def _measured(path: Path, file: str) -> Iterator[Measured]:
    """What each training row of a file shows. A new release of a source is no drift by itself."""
    from tasks.rows import read

    seen: set[int] = set()
    for number, row in enumerate(read(path) if path.exists() else ()):
        if number % STRETCH == 0:
            seen.clear()
        texts = {label: row[column] for column, label in TEXTS[file].items()}
        folded = hash(" ".join("\n".join(texts.values()).casefold().split()))
        labels = {"source": row["source"].partition("==")[0], "repeats": "again" if folded in seen else "first"}
        labels |= {name: row[name] for name in ("domain", "kind") if name in row}
        labels |= {"topic": row["response"]} if row.get("kind") == "topic" else {}
        seen.add(folded)
        measures: dict[str, Any] = {f"{file} {name}": [value] for name, value in labels.items()}
        for label, text in texts.items():
            measures |= {f"{label} {name}": measure for name, measure in _text_measures(text).items()}
        yield row["group"], {ROWS: [file], **measures}


def _text_measures(text: str) -> dict[str, Any]:
    """Lengths, words, kinds of characters, and the types among 50 words.

    The ratio of types to tokens falls with every word read, in segments of one length it does not (Johnson 1944).
    """
    from models.prose import sentences

    words = WORD.findall(text.casefold())
    segments = (words[start : start + SEGMENT] for start in range(0, len(words) - SEGMENT + 1, SEGMENT))
    plain = text.encode("ascii", "ignore")
    kinds = {kind: len(plain) - len(plain.translate(None, of)) for kind, of in KINDS.items()}
    kinds |= {"punctuation": len(plain) - sum(kinds.values()), "non-ASCII": len(text) - len(plain)}
    return {
        "characters": [len(text)], "words": [len(words)], "letters/word": list(map(len, words)),
        "words/sentence": [len(sentence.split()) for sentence in sentences(text)],
        f"types/{SEGMENT} words": [len(set(segment)) for segment in segments],
        "character kinds": kinds, "vocabulary": words,
    }  # fmt: skip


def _encoded(path: Path, file: Path, rows: int) -> Iterator[Measured]:
    """Tokens per word, and how many are single bytes, to which a tokenizer falls back in a text foreign to it."""
    from tokenizers import Tokenizer as Encoder

    encoder, mark = Encoder.from_file(str(file)), f"@{steps.file_digest(file)[:8]}"
    single = {i for token, i in encoder.get_vocab().items() if re.fullmatch("(?s:.)|<0x[0-9A-F]{2}>", token)}
    for kind, columns in TEXTS.items():
        sample = _sample(path / kind / "train.jsonl", rows)
        for column, label in columns.items():
            encoded = encoder.encode_batch_fast([row[column] for row in sample], add_special_tokens=False)
            for row, ids in zip(sample, (each.ids for each in encoded), strict=True):
                words, alone = len(WORD.findall(row[column])), sum(token in single for token in ids)
                kinds = {f"{label} tokens {mark}": {"single byte": alone, "longer": len(ids) - alone}}
                yield row["group"], {**kinds, f"{label} tokens/word {mark}": [len(ids) / words] if words else []}


def _losses(path: Path, folder: Path, rows: int, device: str) -> Iterator[Measured]:
    """Nats per token of the first 32 tokens of a text, and of an answer to its prompt."""
    import numpy as np

    from models.generation import answer_losses, window_losses
    from models.tokenizer import asked
    from tasks.generation import load

    model, tokenizer = load(folder, device)
    mark = f"@{steps.folder_digest(steps.hash_files(folder))[:8]}"
    texts = _sample(path / "text" / "validation.jsonl", rows)
    ids = [tokenizer(row["text"], add_special_tokens=False)["input_ids"][:WINDOW] for row in texts]
    whole = [(row["group"], each) for row, each in zip(texts, ids, strict=True) if len(each) == WINDOW]
    losses = window_losses(model, np.array([each for _, each in whole])) if whole else []
    for (group, _), loss in zip(whole, losses, strict=True):
        yield group, {f"text loss {mark}": [loss]}
    prompts = _sample(path / "instructions" / "validation.jsonl", rows)
    answered = answer_losses(model, tokenizer, list(map(asked, prompts)), [row["response"] for row in prompts])
    for row, (nll, tokens) in zip(prompts, answered, strict=True):
        yield row["group"], {f"response loss {mark}": [nll / tokens]}
