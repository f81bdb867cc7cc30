import ast
import gc
import json
import multiprocessing
import os
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

from tasks import code, steps
from tasks.artifacts import Artifact
from tasks.errors import StoreError
from tasks.steps import Step, materialise, status


class Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 3


@pytest.fixture(autouse=True)
def _store(shared_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)


def _step(width: int = 3, **changes: Any) -> Step:
    return Step(stage="demo", name="rows", recipe=Recipe(width=width), **changes)


def _build(folder: Path) -> Mapping[str, Any]:
    (folder / "rows.txt").write_text("one\ntwo\n")
    (folder / "log").mkdir()
    (folder / "log" / "history.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    return {"rows": 2}


def _never(folder: Path) -> Mapping[str, Any]:
    raise AssertionError("a finished step was built again")


def test_a_finished_step_is_reused() -> None:
    made = materialise(_step(), Artifact, _build)
    again = materialise(_step(), Artifact, _never)
    assert (made.reused, again.reused) == (False, True)
    assert again.model_copy(update={"reused": False}) == made
    assert again.summary == {"rows": 2}


def test_the_digest_is_of_the_outputs_and_not_of_the_log() -> None:
    one = materialise(_step(), Artifact, _build)

    def other_log(folder: Path) -> Mapping[str, Any]:
        summary = _build(folder)
        (folder / "log" / "history.jsonl").write_text('{"step": 1, "loss": 9.0}\n')
        return summary

    assert materialise(_step(4), Artifact, other_log).digest == one.digest


def test_identity_changes_the_key_and_execution_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {
        _step().key, _step(4).key, _step(inputs={"data": "k"}).key, _step(libraries=("numpy",)).key,
        _step(facts={"file": "sha"}).key, _step(modules=("models.packing",)).key,
    }  # fmt: skip
    assert len(keys) == 6
    before = _step().key
    monkeypatch.setenv("EVERGREEN_HOME", "/elsewhere")
    assert _step().key == before


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_step_is_made_again(damage: str) -> None:
    made = materialise(_step(), Artifact, _build)
    file = made.path / "rows.txt"
    file.write_text("lie") if damage == "change" else file.unlink()
    assert "damaged" in status(_step()).why and "rows.txt" in status(_step()).why
    assert materialise(_step(), Artifact, _build).digest == made.digest
    assert file.read_text() == "one\ntwo\n"


def test_an_unreadable_manifest_is_damage_too() -> None:
    made = materialise(_step(), Artifact, _build)
    (made.path / "manifest.json").write_text("{")
    assert not status(_step()).reused
    assert materialise(_step(), Artifact, _build).digest == made.digest


def test_a_failed_build_leaves_no_finished_step() -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        (folder / "rows.txt").write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        materialise(_step(), Artifact, fail)
    assert not _step().folder.exists()
    assert status(_step()).why.startswith("half-written")


@pytest.mark.parametrize("resumable", [True, False])
def test_a_half_written_step_is_handed_back_only_where_it_can_go_on(resumable: bool) -> None:
    _step().partial.mkdir(parents=True)
    (_step().partial / "checkpoint").write_text("7")
    seen = []

    def build(folder: Path) -> Mapping[str, Any]:
        seen.append((folder / "checkpoint").exists())
        return {}

    materialise(_step(), Artifact, build, resumable=resumable)
    assert seen == [resumable]


def test_the_plan_says_what_changed() -> None:
    materialise(_step(inputs={"data": "a"}), Artifact, _build)
    assert status(_step(4, inputs={"data": "a"})).why == "recipe width: 3 -> 4"
    assert status(_step(inputs={"data": "b"})).why == "its input data runs again"
    assert status(Step(stage="demo", name="other", recipe=Recipe())).why == "has not run yet"


def test_an_input_with_other_content_makes_a_step_stale() -> None:
    first = materialise(_step(1), Artifact, _build)
    second = Step(stage="demo", name="next", recipe=Recipe(), inputs={"rows": first.key})
    materialise(second, Artifact, _build)
    assert status(second).reused

    def other(folder: Path) -> Mapping[str, Any]:
        (folder / "rows.txt").write_text("other")
        return {}

    (first.path / "rows.txt").unlink()
    materialise(_step(1), Artifact, other)
    assert not status(second).reused and "rows" in status(second).why


def test_find_names_what_is_missing_and_what_is_ambiguous() -> None:
    with pytest.raises(StoreError, match="no finished step of demo"):
        steps.find("latest", "demo", Artifact)
    first, second = materialise(_step(1), Artifact, _build), materialise(_step(2), Artifact, _build)
    assert steps.find("latest", "demo", Artifact).key == second.key
    assert steps.find(first.key[:6], "demo", Artifact, name="rows").key == first.key
    assert steps.find(str(first.path), "demo", Artifact).key == first.key
    with pytest.raises(StoreError, match="start of 2 keys"):
        steps.find("", "demo", Artifact)


def test_a_home_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="EVERGREEN_HOME"):
        materialise(_step(), Artifact, _build)


def test_weights_that_the_disk_refuses_are_named_though_safetensors_raises_no_oserror() -> None:
    from safetensors.numpy import save_file

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def build(folder: Path) -> Mapping[str, Any]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            save_file({"weight": np.zeros(100_000)}, folder / "model.safetensors")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return {}

    with pytest.raises(StoreError, match=r"cannot write .*ulimit -f"):
        materialise(_step(), Artifact, build)


def _counted(home: str, uri: str, count: Any) -> None:
    os.environ.update(EVERGREEN_HOME=home, MLFLOW_TRACKING_URI=uri)

    def build(folder: Path) -> Mapping[str, Any]:
        with count.get_lock():
            count.value += 1
        return _build(folder)

    materialise(_step(), Artifact, build)


@pytest.mark.slow
def test_two_processes_that_want_the_same_step_build_it_once(shared_store: str) -> None:
    context = multiprocessing.get_context("spawn")
    count = context.Value("i", 0)
    arguments = (os.environ["EVERGREEN_HOME"], shared_store, count)
    processes = [context.Process(target=_counted, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert count.value == 1


def test_the_manifest_names_inputs_code_and_libraries() -> None:
    made = materialise(_step(libraries=("numpy",), modules=("models.packing",)), Artifact, _build)
    identity = json.loads((made.path / "manifest.json").read_text())["identity"]
    assert identity["libraries"]["numpy"][0].isdigit()
    assert "models.packing" in identity["code"]


def test_threads_that_look_at_the_code_at_once_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    names = ("tasks.evaluation", "tasks.sft", "tasks.rlhf", "tasks.gate", "models.metrics")
    alone = [ast.unparse(code._tree(name)) for name in names]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            assert list(threads.map(lambda name: ast.unparse(code._tree(name)), names)) == alone
    assert gc.isenabled()
