"""The whole life cycle at its smallest, run once: what a run leaves behind, reuse, and the plan's promises."""

import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows import cli, deployments, reproduce
from flows.plan import plan
from tasks import catalogue, reproduction, steps, tracking
from tasks.artifacts import RegisteredModel

STAGES = ("data/dataset", "tokenizer/bpe", "scaling/fit", "pretrain/main", "sft/lora", "reward/pairs", "rlhf/grpo")
pytestmark = [pytest.mark.flow, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lifecycle")


@pytest.fixture(autouse=True)
def _places(home: Path, places: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(home / "home"))
    monkeypatch.setenv("EVERGREEN_PROJECT", str(home / "project"))


def _parameters(*overrides: str) -> tuple[Any, dict[str, Any]]:
    return deployments.configured(deployments.load("lifecycle/tiny"), ["execution.threads=1", *overrides])


@pytest.fixture(scope="module")
def registered(home: Path, prefect_server: None) -> Iterator[RegisteredModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_HOME", str(home / "home"))
        patch.setenv("EVERGREEN_PROJECT", str(home / "project"))
        flow, parameters = _parameters()
        yield flow(**parameters)


def test_it_ends_with_a_registered_model_and_a_report(registered: RegisteredModel, home: Path) -> None:
    (entry,) = catalogue.listing("tiny")
    assert entry["version"] == 1
    assert entry["verdict"] in ("promoted", "not promoted")
    assert (home / "project" / "data.dvc").exists()
    report = steps.find("latest", "report", steps.Artifact)
    text = (report.path / "report.md").read_text()
    for row in ("base", "from-scratch", "sft", "aligned", "human"):
        assert row in text
    metrics = json.loads(
        (steps.find("latest", "evaluate", steps.Artifact, name="compare").path / "metrics.json").read_text()
    )
    assert len(metrics["comparisons"]) == 7


def test_the_registered_model_answers(registered: RegisteredModel) -> None:
    from tasks.generation import Chat

    reply = Chat(catalogue.resolve("tiny/1"), device="cpu").reply(
        [{"role": "user", "content": "Soap\nSoap is a salt."}]
    )
    assert isinstance(reply, str)


def test_a_second_run_reuses_every_step(
    registered: RegisteredModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("evergreen"), "propagate", True)
    flow, parameters = _parameters()
    with caplog.at_level(logging.INFO, logger="evergreen"):
        again = flow(**parameters)
    assert again.reused
    lines = [record.getMessage() for record in caplog.records]
    assert sum("reused" in line for line in lines) >= 23
    assert not [line for line in lines if "starts:" in line]
    assert len(catalogue.listing("tiny")) == 1


def test_the_plan_names_the_keys_that_the_run_made(registered: RegisteredModel, home: Path) -> None:
    _, parameters = _parameters()
    planned = plan("lifecycle", parameters)
    assert all(step["reused"] for step in planned["steps"])
    made = {path.name for path in (home / "home" / "store").glob("*/*") if path.is_dir()}
    assert {step["key"] for step in planned["steps"] if not step["name"].startswith("registry/")} <= made
    assert planned["forecast"]["basis"] == "fitted scaling law"


def test_the_plan_reruns_only_what_depends_on_a_change(registered: RegisteredModel) -> None:
    _, parameters = _parameters("rlhf.steps=4")
    rows = {step["name"]: step for step in plan("lifecycle", parameters)["steps"]}
    runs = {name for name, row in rows.items() if not row["reused"]}
    assert runs == {"rlhf/grpo", "evaluate/aligned", "evaluate/compare", "registry/tiny"}
    assert rows["rlhf/grpo"]["why"] == "recipe steps: 3 -> 4"
    assert rows["evaluate/aligned"]["why"] == "its input model runs again"


def test_execution_changes_no_key(registered: RegisteredModel) -> None:
    _, parameters = _parameters("execution.threads=2", "execution.processes=1")
    assert all(step["reused"] for step in plan("lifecycle", parameters)["steps"])


def test_the_lineage_leads_back_to_everything_and_the_best_model_is_found(
    registered: RegisteredModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["lineage", "tiny/1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["made_by"]["flow"] == "lifecycle"
    assert found["made_by"]["entrypoint"] == "flows.lifecycle.lifecycle"
    assert found["made_by"]["parameters"]["rlhf"]["steps"] == 3
    assert found["made_by"]["parameters"]["execution"]["threads"] == 1
    assert {"step": "sft/lora", "key": found["parents"]["model"]["key"]}.items() <= found["parents"]["model"].items()
    by_title = {each["step"]: each for each in found["steps"]}
    assert len(by_title) == 25
    assert by_title["pretrain/main"]["identity"]["recipe"]["context"] == 128
    assert by_title["pretrain/main"]["execution"]["machine"]["libraries"]["torch"]
    assert found["losses"].keys() == {"forecast_loss", "pretrain_loss"}
    assert cli.main(["lineage", "tiny/1"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    assert cli.main(["models", "--data", found["data"]["md5"], "--best", "loss", "--under", "1M", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == ["tiny"]
    assert cli.main(["models", "--best", "loss", "--under", "1k"]) == 0
    assert capsys.readouterr().out == "no version answers to --under 1k\n"


def test_a_registered_model_is_made_again_bit_for_bit_from_its_lineage_alone(
    registered: RegisteredModel, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store that made it is out of reach, and so are its sources: the data come from their DVC version."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = home / "home" / "store"
    store.rename(store.with_name("away"))
    try:
        found = reproduce.reproduce("tiny/1", reproduce.Way(present_code=True, keep=True))
        recorded = reproduction.record_of(catalogue.find("tiny/1"))
    finally:
        store.with_name("away").rename(store)
    assert found["outcome"] == "identical", found["says"]
    assert (found["exit_code"], found["data"].split(", ")[1]) == (0, "from its DVC version")
    assert [row["step"] for row in found["steps"] if row["step"] in STAGES] == list(STAGES)
    assert all(row["recorded"] == row["found"] for row in found["steps"] if row["step"] != "evaluate/compare")
    assert all(each["recorded"] == each["found"] for each in found["metrics"])

    made = Path(found["folder"]) / "home" / "store"
    sft = next(each for each in recorded["steps"] if each["step"] == "sft/lora")
    sft["digest"] = sft["digest"][::-1]
    forged = reproduction.verdict(reproduction.compare(recorded, made), reproduction.metrics(recorded, made))
    assert (forged["reproduced"], forged["first"]) == (False, "sft/lora")


def test_other_data_are_held_against_those_of_the_champion(registered: RegisteredModel, home: Path) -> None:
    tracking.client().set_registered_model_alias("tiny", catalogue.CHAMPION, "1")
    trained_on = catalogue.find(f"tiny@{catalogue.CHAMPION}").tags["data_digest"]
    overrides = ["name=tiny", "recipe.limit=150", "recipe.languages=[fr]", "recipe.script=Latin"]
    flow, parameters = deployments.configured(deployments.load("data/encyclopaedia"), overrides)
    dataset = flow(**parameters)
    found = steps.find("latest", "drift", steps.Artifact, name="compare")
    drift = json.loads((found.path / "drift.json").read_text())
    assert (drift["reference"]["data"]["digest"], drift["current"]["data"]["digest"]) == (trained_on, dataset.digest)
    moved = {each["feature"].split(" @")[0] for each in drift["features"] if each["moved"]}
    assert "response loss" in {each["feature"].split(" @")[0] for each in drift["features"]}
    assert moved, "French is no English"
    planned = plan("data", parameters)["steps"]
    assert [row["name"] for row in planned if row["name"].startswith("drift")] == [
        "drift/profile", "drift/profile", "drift/compare",
    ]  # fmt: skip
    assert all(row["reused"] for row in planned)
