"""Does a registered model say what it said when its training ended? Asked in a fresh process, loaded as users do."""

import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import RegistryError
from tasks.settings import apply_environment

Record = Mapping[str, Any]  # of models.exported


@contextmanager
def fresh() -> Iterator[Executor]:
    """A process that holds nothing of this one: what it loads comes from the registry."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=apply_environment) as process:
        yield process


def check(process: Executor, name: str, number: str, folder: Path, recorded: Record | None) -> list[str]:
    """What is wrong with a version, loaded by MLflow and from the folder that the commands read; empty where nothing.

    Without a record (a model that no stage here has trained) each form must still load and have a loss.
    """
    return _ask(process, _check, name, number, folder, recorded)


def smoke(process: Executor, name: str, alias: str, number: str, recorded: Record | None) -> list[str]:
    """What is wrong with the model that an alias gives to its users now, which must be the version `number`."""
    return _ask(process, _smoke, name, alias, number, recorded)


def _ask(process: Executor, function: Any, *arguments: Any) -> list[str]:
    try:
        found: list[str] = process.submit(function, *arguments).result()
    except BrokenProcessPool as error:
        raise RegistryError(
            f"the process that loaded {arguments[0]} to try it was killed (out of memory, or a signal); run again"
        ) from error
    return found


def _check(name: str, number: str, folder: Path, recorded: Record | None) -> list[str]:
    from tasks.generation import load

    uri = f"models:/{name}/{number}"
    forms = {"MLflow's own form": lambda: _flavour(uri), "the folder for the commands": lambda: load(folder)}
    return [f"{form}: {trouble}" for form, loader in forms.items() if (trouble := _trouble(loader, recorded))]


def _smoke(name: str, alias: str, number: str, recorded: Record | None) -> list[str]:
    from tasks import tracking

    found = str(tracking.client().get_model_version_by_alias(name, alias).version)
    if found != number:
        return [f"{name}@{alias} is version {found}, not {number}"]
    trouble = _trouble(lambda: _flavour(f"models:/{name}@{alias}"), recorded)
    return [trouble] if trouble else []


def _flavour(uri: str) -> tuple[Any, Any]:
    import mlflow.transformers

    from tasks import mlflow_store, tracking
    from tasks.generation import pick_device

    with tracking.as_default(), mlflow_store.quiet():
        loaded = mlflow.transformers.load_model(uri, return_type="components")
    return loaded["model"].eval().to(pick_device("auto")), loaded["tokenizer"]


def _trouble(loader: Any, recorded: Record | None) -> str:
    from models.exported import difference, record

    try:
        model, tokenizer = loader()
        if recorded is not None:
            return difference(recorded, model, tokenizer)
        said = record(model, tokenizer, [{"prompt": [{"role": "user", "content": "Hello"}], "answer": "Hello."}])
    except Exception as error:  # whatever it is, the model cannot be used, and that is the finding
        return f"cannot be used: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    loss = said["probes"][0]["loss"]
    return "" if loss < float("inf") else f"its loss is {loss}"
