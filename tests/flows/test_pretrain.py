"""Going on from a foreign model: what a run does to new and to earlier knowledge, and that the plan knew its keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flows import deployments
from flows.plan import plan
from flows.pretrain import pretrain
from tasks import steps, training
from tasks.artifacts import Checkpoint
from tasks.errors import StartError, UsageError
from tests import contest, tiny
from tests.tiny import TinyRecipe

pytestmark = [pytest.mark.flow, pytest.mark.slow, pytest.mark.timeout(900)]
CONTINUED = {"tokens": 6000, "context": 32, "batch": 4, "evaluations": 0, "validation_tokens": 512, "warmup": 0.2,
             "documents": "joined"}  # fmt: skip


@pytest.fixture(scope="module")
def places_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("going-on")


@pytest.fixture(autouse=True)
def _places(places_: Path, places: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(places_ / "home"))


@pytest.fixture(scope="module")
def parameters(places_: Path, prefect_server: None) -> dict[str, Any]:
    """A base of random weights, and two data sets of which it has seen neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_HOME", str(places_ / "home"))
        base = contest.model(places_ / "base", seed=1)
        new, earlier = (tiny.dataset(TinyRecipe(seed=seed)).key for seed in (7, 0))
    words = [f"start={base.model}", f"dataset={new}", f"earlier={earlier}", "execution.processes=1"]
    words += [f"continued.{name}={value}" for name, value in CONTINUED.items()]
    return deployments.configured(deployments.load("pretrain/continued"), words)[1]


@pytest.fixture(scope="module")
def made(parameters: dict[str, Any], places_: Path) -> Iterator[Checkpoint]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_HOME", str(places_ / "home"))
        yield pretrain(**parameters)


def test_it_learned_from_the_new_data_and_says_so(made: Checkpoint, parameters: dict[str, Any]) -> None:
    assert made.summary["loss"] < made.summary["loss_before"] - 0.5
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (parameters["start"], made.model))
    assert before.keys() == after.keys()
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])


def test_the_loss_on_earlier_text_is_measured_before_and_after(made: Checkpoint, parameters: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    from models.generation import window_losses
    from models.packing import PackedWindows

    found = made.summary["earlier"]
    known = steps.find(parameters["earlier"], "data", Checkpoint)
    encoded = [p for p in steps.finished("tokenizer", "encoded") if known.digest in _inputs(p)]
    windows = PackedWindows(encoded[0] / "tokens" / "validation", {}, context=32, tokens=512).all_ids()
    for name, folder in (("loss_before", Path(parameters["start"])), ("loss", made.model)):
        losses = window_losses(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"), windows)
        assert found[name] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert found["change"] == found["loss"] - found["loss_before"]


def _inputs(folder: Path) -> list[str]:
    return list((steps.read_manifest(folder) or {})["inputs"].values())


def test_a_quarter_of_what_it_read_was_replay(made: Checkpoint) -> None:
    learnt = steps.find("latest", "replay", Checkpoint).summary
    share = learnt["replayed"]["text"] / (learnt["replayed"]["text"] + learnt["new"]["text"])
    assert share == pytest.approx(0.25, abs=0.03)


def test_the_learning_rate_warms_up_again_and_falls_to_zero(made: Checkpoint) -> None:
    rates = [entry["learning_rate"] for entry in training.history(made.path) if "learning_rate" in entry]
    top = rates.index(max(rates))
    assert 0.1 < (top + 1) / len(rates) < 0.35
    assert rates[0] < 0.3 * max(rates) and rates[-1] < 0.1 * max(rates)
    assert max(rates) == pytest.approx(made.summary["learning_rate"], rel=0.1)


def test_the_plan_names_the_keys_that_the_run_made(made: Checkpoint, parameters: dict[str, Any]) -> None:
    planned = plan("pretrain", parameters)["steps"]
    titles = ["pretrain/imported", "replay/dataset", "tokenizer/encoded", "tokenizer/encoded", "pretrain/continued"]
    assert [step["name"] for step in planned] == titles
    assert all(step["reused"] for step in planned)
    assert planned[-1]["key"] == made.key
    elsewhere = parameters["execution"].model_copy(update={"device": "cuda"})
    assert plan("pretrain", {**parameters, "execution": elsewhere})["steps"] == planned, "nothing would train"
    assert pretrain(**parameters).reused


def test_a_start_that_is_not_there_fails_before_anything_runs(parameters: dict[str, Any]) -> None:
    before = len(steps.finished("replay"))
    for run in (lambda given: pretrain(**given), lambda given: plan("pretrain", given)):
        with pytest.raises(StartError, match="no model answers to 'nobody'"):
            run({**parameters, "start": "nobody"})
    assert len(steps.finished("replay")) == before


def test_the_recipe_of_a_training_from_scratch_is_refused_beside_a_start(parameters: dict[str, Any]) -> None:
    recipe = parameters["recipe"].model_copy(update={"size": 2})
    with pytest.raises(UsageError, match="set the fields of continued"):
        pretrain(**{**parameters, "recipe": recipe})
