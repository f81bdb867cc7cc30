"""`evergreen reproduce`: a registered model made again from its lineage alone, and held against what was recorded."""

import argparse
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from tasks import catalogue, reproduction
from tasks.errors import RegistryError
from tasks.lineage import PARENT, Document

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

STDERR = 2
TOLD = ("approval", "notice")  # who is asked and told: nobody is, of a run that only compares
logger = logging.getLogger("evergreen.reproduce")

# Steps whose recipes are the life cycle's parameters: for a model whose stages were run one by one.
RECIPES = {
    "tokenizer": "tokenizer/bpe", "pretrain": "pretrain/main", "sft": "sft/lora", "reward": "reward/pairs",
    "preferences": "preferences/own-samples", "rlhf": "rlhf/grpo", "evaluation": "evaluate/aligned",
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How a model is made again."""

    present_code: bool = False
    rebuild_data: bool = False
    whole_chain: bool = False
    keep: bool = False


@dataclass
class Run:
    """One run in a folder of its own, and where its code and data came from."""

    folder: Path
    code: Path
    data: str = ""
    exit_code: int = 0
    parents: list[dict[str, Any]] = field(default_factory=list)


def way_of(options: argparse.Namespace) -> Way:
    return Way(options.with_present_code, options.rebuild_data, options.whole_chain, options.keep)


def reproduce(reference: str, way: Way) -> dict[str, Any]:
    """Runs a version's flow again in a fresh home and project and compares every step.

    Raises RegistryError where there is no such version, or its record or code cannot be had.
    """
    version = catalogue.find(reference)
    recorded = reproduction.record_of(version)
    started = time.monotonic()
    with _scratch(version, way) as folder:
        with reproduction.checked_out(recorded, folder, present=way.present_code) as code:
            run = Run(folder, code)
            _lay_ready(recorded, run, way)
            _execute(recorded, version, run)
        store = folder / "home" / "store"
        rows, measured = reproduction.compare(recorded, store), reproduction.metrics(recorded, store)
        return {
            "model": f"{version.name}/{version.version}",
            **reproduction.verdict(rows, measured),
            "commit": recorded["code"]["commit"],
            "present_code": way.present_code,
            "data": run.data,
            "exit_code": run.exit_code,
            "seconds": round(time.monotonic() - started, 1),
            "folder": str(folder) if way.keep else None,
            "steps": rows,
            "metrics": measured,
            "parents": run.parents,
        }


def parameters_of(recorded: Document, name: str) -> tuple[str, dict[str, Any]]:
    """The entrypoint of the flow to run and its parameters.

    Where only the registry's flow is on record, because the stages ran one by one, those of the life cycle with the
    recipes of the steps. Raises RegistryError where neither says how the model was made.
    """
    made_by = recorded["made_by"]
    entrypoint, parameters = made_by["entrypoint"], made_by["parameters"]
    if made_by["flow"] in ("", "registry"):
        entrypoint, parameters = "flows.lifecycle.lifecycle", _recipes(recorded, name)
    parameters = {name: value for name, value in parameters.items() if name not in TOLD}
    if execution := parameters.get("execution"):
        parameters["execution"] = {**execution, "commit": False}
    return entrypoint, parameters


def table(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The result as pairs: a head, and the text that wraps beside it."""
    word = f"reproduced: {found['outcome']}" if found["reproduced"] else f"not reproduced: {found['outcome']}"
    code = "the checkout as it is" if found["present_code"] else found["commit"][:12]
    rows = [
        (f"{found['model']}  ", word),
        ("  ", found["says"]),
        ("  code      ", code),
        ("  data      ", found["data"]),
    ]
    rows += [("  step      ", _step_line(row)) for row in found["steps"]]
    rows += [("  metric    ", _metric_line(each)) for each in found["metrics"] if found["outcome"] != "identical"]
    rows += [("  continues ", f"{each['model']}, {each['outcome']}") for each in found["parents"]]
    if found["exit_code"]:
        rows.append(("  run       ", f"ended with exit code {found['exit_code']}; its messages are above"))
    return [*rows, *([("  kept in   ", found["folder"])] if found["folder"] else [])]


def _step_line(row: Mapping[str, Any]) -> str:
    if row["same"] and row["found"] != row["recorded"]:
        return f"{row['step']:<24} the same metrics, other findings beside them"
    if row["same"]:
        return f"{row['step']:<24} {row['found'][:16]} identical"
    why = "; ".join([*row["why"], *row["platform"]][:3])
    if row["found"] is None:
        return f"{row['step']:<24} {row['recorded'][:16]} was not made again"
    return f"{row['step']:<24} {row['recorded'][:16]} -> {row['found'][:16]}{f' ({why})' if why else ''}"


def _metric_line(each: Mapping[str, Any]) -> str:
    near = "within" if each["ok"] else "outside"
    return (
        f"{each['metric']:<16} {each['recorded']:.4g} -> {each['found']:.4g}, {near} "
        f"{each['low']:.4g} to {each['high']:.4g}"
    )


@contextmanager
def _scratch(version: "ModelVersion", way: Way) -> Iterator[Path]:
    folder = Path(mkdtemp(prefix=f"evergreen-{version.name}-{version.version}-"))
    try:
        yield folder
    finally:
        if not way.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _lay_ready(recorded: Document, run: Run, way: Way) -> None:
    """The data set and the registered parent, where there is one, in the home of the run."""
    laid = not way.rebuild_data and reproduction.lay_data(recorded, run.folder / "home")
    run.data = f"{recorded['data']['key']}, " + ("from its DVC version" if laid else "built from its sources")
    if parent := recorded["tags"].get(PARENT):
        if way.whole_chain:
            run.parents.append(reproduce(parent, way))
        reproduction.bring_parent(recorded, catalogue.find(parent), run.folder / "home")


def _execute(recorded: Document, version: "ModelVersion", run: Run) -> None:
    """Runs the flow in a process of its own; whatever way it ends, its finished steps are what counts."""
    entrypoint, parameters = parameters_of(recorded, version.name)
    file = run.folder / "parameters.json"
    file.write_text(json.dumps(parameters, indent=1, ensure_ascii=False), encoding="utf-8")
    command = [sys.executable, "-m", "flows.cli", "run", entrypoint, "--parameters", str(file)]
    data_key = recorded["data"]["key"] if (run.folder / "home" / "store" / "data").exists() else ""
    environment = reproduction.environment(run.code, run.folder, data_key)
    logger.info("%s/%s is made again in %s, code %s", version.name, version.version, run.folder, run.code)
    with subprocess.Popen(command, env=environment, stdout=STDERR) as process:
        try:
            run.exit_code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # again where the terminal has sent it, which changes nothing
            process.wait()
            raise


def _recipes(recorded: Document, name: str) -> dict[str, Any]:
    recipes = {each["step"]: each["identity"]["recipe"] for each in recorded["steps"]}
    lacking = sorted(step for step in (*RECIPES.values(), "scaling/fit") if step not in recipes)
    if lacking:
        raise RegistryError(
            f"{name}: its record names no flow that makes it from the start, and lacks the steps {', '.join(lacking)}; "
            "register it from a flow that passes `made_by`"
        )
    data: dict[str, Any] = {}
    for step in ("ingest/rows", "validate/rows", "data/dataset"):
        data |= recipes.get(step, {})
    execution = recorded["made_by"]["parameters"].get("execution", {})
    stages = {parameter: recipes[step] for parameter, step in RECIPES.items()}
    return {"name": name, "data": data, "scaling": recipes["scaling/fit"]["scaling"], **stages, "execution": execution}


def failed(found: Mapping[str, Any]) -> bool:
    """Whether the model, or one that it continues, was not reproduced."""
    return not found["reproduced"] or any(failed(each) for each in found["parents"])
