import json
import shutil

import pytest

from tasks import catalogue, contamination, steps
from tasks.artifacts import Artifact, Checkpoint, Dataset
from tests import tiny

LONG = "the quick brown fox jumps over the lazy dog while seven wizards quietly watch from a distant hill"
ITEMS = [["What does the fox do?", "It jumps"], [LONG], ["A village in Norway", "a gloss of only a few words here"]]
RUNS = {"overlap_words": 13, "common_runs": 10}


@pytest.fixture(autouse=True)
def places(tmp_path, shared_store, monkeypatch):
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)


def data(folder, *rows, domain="encyclopaedia"):
    (folder / "text").mkdir(parents=True)
    lines = [json.dumps({"id": f"t{n}", "domain": domain, "text": text}) for n, text in enumerate(rows)]
    (folder / "text" / "train.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def test_a_copied_item_is_seen_with_the_run_that_is_shared(tmp_path):
    folder = data(tmp_path / "d", "Nothing to see here.", f"Before it. {LONG.upper()}! After it.")
    assert contamination.shared(folder, ITEMS, **RUNS) == {1: " ".join(LONG.upper().split()[:13])}


def test_what_is_short_or_common_or_code_is_no_contamination(tmp_path):
    short = data(tmp_path / "short", "the quick brown fox jumps over the lazy dog")
    common = data(tmp_path / "common", *[f"{LONG} {n}" for n in range(11)])
    code = data(tmp_path / "code", LONG, domain="code")
    for folder in (short, common, code):
        assert contamination.shared(folder, ITEMS, **RUNS) == {}
    assert contamination.shared(common, ITEMS, overlap_words=13, common_runs=11) == {1: " ".join(LONG.split()[:13])}


def test_every_item_that_shares_the_same_run_counts(tmp_path):
    folder = data(tmp_path / "d", LONG)
    assert set(contamination.shared(folder, [[LONG], ["x"], [f"{LONG} again"]], **RUNS)) == {0, 2}


def step(stage, name, kind=Artifact, **inputs):
    made = steps.Step(stage=stage, name=name, recipe=tiny.TinyRecipe(), inputs=inputs)
    return steps.materialise(made, kind, lambda folder: (folder / "model").mkdir() or {})


def test_the_data_of_an_ancestor_count_and_what_is_gone_is_said(tmp_path):
    present, older = (tiny.dataset(tiny.TinyRecipe(seed=seed)) for seed in (1, 2))
    first = step("pretrain", "main", Checkpoint, dataset=older.key)
    tuned = step("sft", "lora", Checkpoint, base=first.key, dataset=present.key)
    evaluated = step("evaluate", "sft", model=tuned.key, dataset=present.key)
    secret = json.loads((older.path / "text" / "train.jsonl").read_text().splitlines()[0])["text"] + f" {LONG}"
    with (older.path / "text" / "train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "leak", "domain": "encyclopaedia", "text": secret}) + "\n")
    held_out = {"a": ITEMS[0], "b": ITEMS[1]}, {"a": [LONG], "c": ITEMS[2]}
    found = contamination.examine({"sft": evaluated}, present, *held_out)["sft"]
    assert [found[name] for name in ("items", "texts", "contaminated", "earlier")] == [2, 2, 0, 2]
    assert found["left_out"] == {"items": ["b"], "texts": ["a"]}
    assert found["data"] == [present.key, older.key]
    assert found["unchecked"] == []
    shutil.rmtree(older.path)
    gone = contamination.examine({"sft": evaluated}, present, *held_out)["sft"]
    assert (gone["contaminated"], gone["earlier"]) == (0, 0)
    assert gone["unchecked"] == [f"step {older.key} is not in the store; the data behind it were not looked at"]


def test_a_model_trained_further_from_a_registered_one_has_its_data_behind_it(monkeypatch):
    older = tiny.dataset()
    registered = step("rlhf", "grpo", Checkpoint, dataset=older.key)
    monkeypatch.setattr(catalogue, "origin", lambda key: registered.key if key == "version-1" else "")
    folders, unchecked = contamination.data_behind(step("pretrain", "main", base="version-1").key)
    assert (folders, unchecked) == ([older.path], [])


def test_runs_of_words_are_what_the_data_recipe_says(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(contamination, "shared", lambda *_, **runs: seen.append(runs) or {})
    (tmp_path / "manifest.json").write_text(json.dumps({"identity": {"recipe": {"overlap_words": 8}}}))
    dataset = Dataset(stage="data", name="dataset", key="k", digest="d", path=tmp_path)
    contamination.examine({"a": dataset}, dataset, {"a": ITEMS[0]}, {})
    assert seen == [{"overlap_words": 8, "common_runs": 10}]
