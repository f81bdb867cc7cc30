"""Every family through the stages: pre-training for all, what follows for those that write on."""

import json
from pathlib import Path
from typing import get_args

import pytest

from models.architectures import DECODERS, OBJECTIVES, Family, load
from tasks import pretrain, sft
from tasks.artifacts import Checkpoint
from tasks.errors import UsageError
from tests import killable, tiny

FAMILIES: tuple[Family, ...] = get_args(Family)
RECIPE = killable.PRETRAIN.model_copy(update={"tokens": 12_000, "evaluations": 1})


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(autouse=True)
def home(places: None, shared_home: Path, shared_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One home for all tests of the file: they share the data, the tokenizer and what was pre-trained."""
    monkeypatch.setenv("EVERGREEN_HOME", str(shared_home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)


def pretrained(family: Family) -> Checkpoint:
    more = {"tokens": 48_000} if family == "bert" else {}  # it predicts one token in seven
    recipe = RECIPE.model_copy(update={"family": family, **more})
    return pretrain.pretrain_model.fn(tiny.tokenizer(tiny.dataset()), None, recipe, tiny.EXECUTION)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_more_than_the_frequencies_and_loads_again(family: Family) -> None:
    made = pretrained(family)
    assert made.summary["gain_over_unigram"]["low"] > 0
    assert (made.summary["family"], made.summary["objective"]) == (family, OBJECTIVES[family])
    assert ("bigram" in made.summary) == (OBJECTIVES[family] == "causal")
    model = load(made.model)
    assert sum(p.numel() for p in model.parameters()) == made.summary["parameters"]
    config = json.loads((made.model / "config.json").read_text())
    assert config["architectures"] == [type(model).__name__]


@pytest.mark.slow
@pytest.mark.parametrize("family", [each for each in DECODERS if each != "llama"])
def test_another_decoder_is_fine_tuned(family: Family, tmp_path: Path) -> None:
    base, data = pretrained(family), tiny.dataset()
    recipe = killable.SFT.model_copy(update={"learning_rate": 3e-3})
    tuned = sft.finetune.fn(base, data, recipe, tiny.EXECUTION)
    history = [json.loads(line) for line in (tuned.path / "log" / "history.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    before, after = load(base.model).state_dict(), load(tuned.model).state_dict()
    assert before.keys() == after.keys() and any((before[name] != after[name]).any() for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("family", [each for each in FAMILIES if each not in DECODERS])
def test_what_cannot_write_on_is_refused_where_it_would_have_to(family: Family) -> None:
    with pytest.raises(UsageError, match=rf"family is {family}, .*=llama, gpt2, bloom or palm"):
        pretrain.require_decoder(family)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_window_longer_than_the_learnt_positions_is_refused(family: Family) -> None:
    recipe = RECIPE.model_copy(update={"family": family, "context": 128})
    with pytest.raises(UsageError, match=rf"context is 128, and a {family} for this tokenizer learns 96 positions"):
        pretrain.pretrain_model.fn(tiny.tokenizer(tiny.dataset()), None, recipe, tiny.EXECUTION)
