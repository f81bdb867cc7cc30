"""What `evergreen reproduce` runs, and how its result and a lineage read. The rerun itself is in test_lifecycle.py."""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import cli, deployments, queries, reproduce, tables
from flows.lifecycle import lifecycle
from tasks.errors import RegistryError, UsageError
from tasks.lineage import PARENT


def _recorded(flow: str = "lifecycle", **parameters: Any) -> dict[str, Any]:
    """The record of a model whose steps have the life cycle's default recipes, but for one value each."""
    recipes = {
        name: recipe.model_dump(mode="json")
        for name, recipe in deployments.validated(lifecycle, {}).items()
        if not isinstance(recipe, str)
    }
    data = recipes["data"] | {"limit": 7}
    identities = {
        step: recipes[parameter] | {"seed": 5}
        for parameter, step in reproduce.RECIPES.items()
        if parameter != "tokenizer"
    }
    identities |= {
        "tokenizer/bpe": recipes["tokenizer"],
        "ingest/rows": {"source": data["source"], "limit": 7},
        "validate/rows": {"script": "Greek"},
        "data/dataset": {"replies": 9},
        "scaling/fit": {"scaling": recipes["scaling"], "context": 128},
    }
    return {
        "made_by": {"flow": flow, "entrypoint": f"flows.{flow}.{flow}", "parameters": parameters},
        "steps": [{"step": step, "identity": {"recipe": recipe}} for step, recipe in identities.items()],
    }


def test_the_recorded_flow_is_run_with_its_parameters_and_neither_commits_nor_asks_nor_tells() -> None:
    recorded = _recorded(
        name="x", approval={"required": True}, notice={"to": "x"}, execution={"threads": 3, "commit": True}
    )
    entrypoint, parameters = reproduce.parameters_of(recorded, "x")
    assert entrypoint == "flows.lifecycle.lifecycle"
    assert parameters == {"name": "x", "execution": {"threads": 3, "commit": False}}


@pytest.mark.parametrize("flow", ["registry", ""])
def test_stages_that_ran_one_by_one_become_a_life_cycle_with_their_recipes(flow: str) -> None:
    entrypoint, parameters = reproduce.parameters_of(_recorded(flow, model="rlhf/grpo", execution={"threads": 1}), "x")
    assert entrypoint == "flows.lifecycle.lifecycle"
    checked = deployments.validated(lifecycle, parameters)
    assert (checked["name"], checked["execution"].threads) == ("x", 1)
    assert (checked["data"].limit, checked["data"].script, checked["data"].replies) == (7, "Greek", 9)
    assert {checked[stage].seed for stage in ("pretrain", "sft", "preferences", "reward", "rlhf", "evaluation")} == {5}


def test_a_record_of_other_steps_without_a_flow_is_refused() -> None:
    recorded = _recorded("")
    recorded["steps"] = [each for each in recorded["steps"] if each["step"] != "reward/pairs"]
    with pytest.raises(RegistryError, match=r"x: its record names no flow .* lacks the steps reward/pairs; "):
        reproduce.parameters_of(recorded, "x")


def test_a_registered_parent_is_brought_and_with_the_whole_chain_made_again_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(reproduce.reproduction, "lay_data", lambda *_: False)
    monkeypatch.setattr(reproduce.reproduction, "bring_parent", lambda *given: done.append(given[1:]))
    monkeypatch.setattr(reproduce.catalogue, "find", lambda reference: SimpleNamespace(name=reference))
    monkeypatch.setattr(
        reproduce, "reproduce", lambda reference, way: {"model": reference, "reproduced": False, "parents": []}
    )
    recorded = {"tags": {PARENT: "x/3"}, "data": {"key": "k"}}
    run = reproduce.Run(tmp_path, tmp_path)
    reproduce._lay_ready(recorded, run, reproduce.Way())
    assert [(parent.name, home) for parent, home in done] == [("x/3", tmp_path / "home")]
    assert (run.data, run.parents) == ("k, built from its sources", [])
    reproduce._lay_ready(recorded, run, reproduce.Way(whole_chain=True))
    assert [each["model"] for each in run.parents] == ["x/3"]
    assert reproduce.failed({"reproduced": True, "parents": run.parents})


def test_a_result_fits_80_columns_and_names_the_step_that_differs() -> None:
    row = {"step": "preferences/own-samples", "recorded": "a" * 64, "found": "b" * 64, "same": False,
           "why": ["code of tasks.preferences changed"], "platform": ["threads 2 -> 1"]}  # fmt: skip
    found = {
        "model": "x/1", "reproduced": False, "outcome": "different", "says": "it is " * 30, "present_code": False,
        "commit": "c" * 40, "data": "k, from its DVC version", "folder": None, "exit_code": 1, "parents": [],
        "steps": [row, {**row, "found": None}], "metrics": [
            {"metric": "loss", "recorded": 1.0, "found": 2.0, "low": 0.9, "high": 1.1, "ok": False},
        ],
    }  # fmt: skip
    text = tables.rows(reproduce.table(found))
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("x/1  not reproduced: different")
    for part in (
        "aaaaaaaaaaaaaaaa -> bbbbbbbbbbbbbbbb",
        "code of tasks.preferences changed",
        "was not made again",
        "outside 0.9",
    ):
        assert part in " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "count"), [("2M", 2e6), ("1.5e6", 1.5e6), ("300k", 3e5), ("1b", 1e9), ("1_000", 1e3), ("7", 7)]
)
def test_a_count_is_read_as_people_write_it(text: str, count: float) -> None:
    assert queries.amount(text) == count


@pytest.mark.parametrize("text", ["many", "2MM", "-1", "M", "1e", "nan"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no number of parameters; give one as in 2M"):
        queries.amount(text)


def test_a_limit_without_a_metric_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--under", "2M"]) == cli.MISUSED
    assert "name a metric: --best score" in " ".join(capsys.readouterr().err.split())


def test_what_was_not_found_is_said() -> None:
    options = argparse.Namespace(name=None, data="abc", best="", under="")
    assert queries.nothing(options) == "no version answers to --data abc"
    assert queries.nothing(argparse.Namespace(data="", under="")).startswith("no model is registered yet")


def test_a_model_that_is_not_there_cannot_be_traced_or_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("lineage", "reproduce"):
        assert cli.main([command, "nobody", "--json"]) == cli.FAILED
        said = capsys.readouterr()
        assert said.out == ""
        assert "no model answers to 'nobody'" in said.err


def test_a_file_of_parameters_takes_the_place_of_the_deployments(tmp_path: Path) -> None:
    file = tmp_path / "parameters.json"
    file.write_text('{"name": "mine", "sft": {"epochs": 3}}')
    deployment = deployments.with_parameters(deployments.load("lifecycle/tiny"), file)
    _, parameters = deployments.configured(deployment, ["sft.rank=4"])
    assert (parameters["name"], parameters["sft"].epochs, parameters["sft"].rank) == ("mine", 3, 4)
    assert parameters["data"].limit == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "holds list; it must map"), ("a: [", "is neither JSON nor YAML"), (None, "cannot be read: No such file")],
)
def test_a_file_that_holds_no_parameters_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "parameters.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=f"--parameters .*parameters.yaml {message}"):
        deployments.with_parameters(deployments.load("lifecycle/tiny"), file)


def test_with_a_file_of_parameters_a_flow_needs_no_deployment(tmp_path: Path) -> None:
    file = tmp_path / "parameters.json"
    file.write_text('{"name": "mine"}')
    chosen = deployments.chosen("flows.lifecycle.lifecycle", str(file))
    flow, parameters = deployments.configured(chosen, [])
    assert (chosen.flow_name, flow.name, parameters["name"]) == ("lifecycle", "lifecycle", "mine")
    assert deployments.chosen("lifecycle/tiny", str(file)).parameters == {"name": "mine"}
    assert deployments.chosen("lifecycle/tiny", None) == deployments.load("lifecycle/tiny")
    with pytest.raises(UsageError, match=r"no deployment is called 'flows\.lifecycle\.lifecycle'"):
        deployments.chosen("flows.lifecycle.lifecycle", None)
    with pytest.raises(UsageError, match=r"'flows\.lifecycle\.nothing', which cannot be imported"):
        deployments.configured(deployments.chosen("flows.lifecycle.nothing", str(file)), [])
