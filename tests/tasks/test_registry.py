import json
import re
from ast import literal_eval
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks import catalogue, lineage, registry, reproduction, steps, tracking, weights
from tasks.artifacts import Checkpoint, EvaluationReport
from tasks.errors import DataVersionError, RegistryError, UsageError
from tasks.gate import Gate
from tasks.settings import ROOT

GATE = Gate(min_items=20, draws=200)
LINEAGE = {"data_digest": "d1", "git_commit": "c0ffee"}
DOCUMENT = {"made_by": {"flow": "lifecycle"}, "code": {"commit": "c0ffee"}, "steps": []}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {"EVERGREEN_HOME": tmp_path_factory.mktemp("home"), "EVERGREEN_PROJECT": tmp_path_factory.mktemp("project")}


@pytest.fixture(autouse=True)
def places(folders, shared_store, monkeypatch):
    """All tests of this file share a home and a registry; each has model names of its own."""
    for name, folder in folders.items():
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A function that saves a tiny model with random weights of a seed."""
    from models.architectures import Dimensions, build
    from models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a small river in the north"] * 9, vocabulary=300, context=32)
    special = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    shape = Dimensions(hidden=32, layers=1, heads=1, intermediate=32)

    def make(seed):
        folder = tmp_path_factory.mktemp(f"model-{seed}")
        build(shape, vocabulary=300, context=32, special=special, seed=seed).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        digest = steps.folder_digest(steps.hash_files(folder))
        return Checkpoint(stage="rlhf", name="grpo", key=f"model-{seed}", digest=digest, path=folder)

    return make


@pytest.fixture
def report(tmp_path):
    """A function that writes an evaluation in which a share of the aligned answers is good."""

    def make(share, items_digest="items-1"):
        folder = tmp_path / f"report-{share}-{items_digest}"
        folder.mkdir()
        lines = [
            {"id": f"i{n:02}", "scores": {"sft": scored(n % 4 > 1), "aligned": scored(n < 40 * share)}}
            for n in range(40)
        ]
        (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        rows = {
            row: {metric: {"mean": mean, "low": 0.0, "high": 99.0, "n": 40} for metric, mean in scored(good).items()}
            for row, good in (("sft", 0.5), ("aligned", share))
        }
        (folder / "metrics.json").write_text(json.dumps({"items": 40, "items_digest": items_digest, "rows": rows}))
        return EvaluationReport(stage="evaluate", name="test", key=folder.name, digest=folder.name, path=folder)

    return make


def scored(good):
    return {"score": 0.3 + good, "rougeL": 0.3, "grounded": float(good), "guideline": float(good), "chars": 30}


def never(folder):
    raise AssertionError("the champion was scored on these items already")


def register(model, report, name, evaluate_again=never, lineage=LINEAGE):
    return registry.register.fn(model, report, name=name, gate=GATE, lineage=lineage, evaluate_again=evaluate_again)


def aliases(name):
    return {alias: int(number) for alias, number in tracking.client().get_registered_model(name).aliases.items()}


def test_an_empty_home_has_no_models_and_stays_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert catalogue.listing() == []
    with pytest.raises(
        RegistryError, match=r"no model answers to 'nano@champion'; there are no models yet: `evergreen run`"
    ):
        catalogue.resolve("nano@champion")
    assert not registry.status("nano", "k").reused
    assert not list(tmp_path.iterdir())


def test_a_model_goes_in_and_comes_out_the_same(model, report):
    import mlflow.transformers
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made, told = model(1), report(1.0)
    registered = register(made, told, "round")
    assert registered.summary["verdict"] == "promoted"
    assert registered.summary["version"] == 1
    assert registered.summary["aliases"] == ["champion"]
    assert registered.inputs["model"] == made.digest
    assert all(check["ok"] for check in registered.summary["checks"])
    assert len(registered.summary["reasons"]) == 5

    folder = catalogue.resolve("round")
    assert folder == catalogue.resolve("round@champion") == catalogue.resolve("round/1") == registered.path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("a river", return_tensors="pt").input_ids
    before, after = (AutoModelForCausalLM.from_pretrained(each)(ids).logits for each in (made.model, folder))
    assert torch.equal(before, after)
    assert tokenizer.chat_template
    with tracking.as_default():
        loaded = mlflow.transformers.load_model("models:/round@champion", return_type="components")
    assert torch.equal(before, loaded["model"](ids).logits)

    (listed,) = catalogue.listing("round")
    assert listed == {
        "name": "round", "version": 1, "aliases": ["champion"], "verdict": "promoted", "metrics": scored(1.0),
        "parameters": weights.parameters(made.model), "data_key": "", "data_digest": "d1", "data_md5": "",
        "run_id": registered.run_id,
    }  # fmt: skip
    metrics = tracking.client().get_run(registered.run_id).data.metrics
    assert metrics["sft/score"] == 0.8
    assert metrics["aligned/score/high"] == 99.0


def test_the_same_registration_is_reused_and_another_gate_is_another(model, report):
    made, told = model(2), report(1.0)
    first, second = register(made, told, "same"), register(made, told, "same")
    assert (first.reused, second.reused) == (False, True)
    assert second.model_copy(update={"reused": False}) == first
    wanted = registry.key("same", made.key, told.key, GATE)
    assert first.key == wanted
    assert registry.status("same", wanted).reused
    other = registry.key("same", made.key, told.key, Gate())
    assert registry.status("same", other).why == "no version of same has this model, evaluation and gate"


def test_a_better_model_takes_over_and_a_worse_one_moves_nothing(model, report):
    register(model(3), report(0.8), "line")
    assert aliases("line") == {"champion": 1}
    better = register(model(4), report(1.0), "line")
    assert better.summary["verdict"] == "promoted"
    assert aliases("line") == {"champion": 2, "previous": 1}
    worse = register(model(5), report(0.9), "line")
    assert worse.summary["verdict"] == "not promoted"
    assert worse.summary["reasons"][0].startswith("score against champion -0.100 [")
    assert aliases("line") == {"champion": 2, "previous": 1, "challenger": 3}
    assert [each["verdict"] for each in catalogue.listing("line")] == ["not promoted", "promoted", "promoted"]
    assert catalogue.resolve("line@challenger") == worse.path != catalogue.resolve("line") == better.path


def test_a_champion_that_was_scored_on_other_items_is_scored_again(model, report):
    first = register(model(6), report(1.0), "again")
    folders = []

    def evaluate_again(folder):
        folders.append(folder)
        return [{"id": f"i{n:02}", "scores": scored(n < 30)} for n in range(40)]

    second = register(model(7), report(1.0, "items-2"), "again", evaluate_again)
    assert folders == [first.path]
    assert catalogue.checkpoint(first.path).model == first.path
    assert second.summary["checks"][1]["value"] == pytest.approx(0.25)
    assert aliases("again")["champion"] == 2


def test_weights_that_cannot_be_versioned_leave_the_champion_and_the_next_run_goes_on(
    model, report, tmp_path, monkeypatch
):
    first, made, told = register(model(8), report(0.8), "safe"), model(9), report(1.0)
    (tmp_path / "models").write_text("a file where a folder should be")
    with monkeypatch.context() as broken:
        broken.setenv("EVERGREEN_PROJECT", str(tmp_path))
        with pytest.raises((OSError, DataVersionError)):
            register(made, told, "safe")
    assert aliases("safe") == {"champion": 1, "challenger": 2}
    assert catalogue.resolve("safe") == first.path
    assert catalogue.listing("safe")[0]["verdict"] == "undecided"
    second = register(made, told, "safe")
    assert second.summary["version"] == 2
    assert aliases("safe") == {"champion": 2, "previous": 1}


def test_two_at_once_leave_one_champion(model, report):
    pairs = [(model(10), report(0.9)), (model(11), report(1.0))]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda pair: register(*pair, "pair"), pairs))
    champion = aliases("pair")["champion"]
    assert sorted(each.summary["version"] for each in done) == [1, 2]
    assert done[[each.summary["version"] for each in done].index(champion)].summary["verdict"] == "promoted"


def test_the_queries_of_the_page_run_as_written(model, report, tmp_path, capsys):
    page = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "history.jsonl").write_text('{"step": 4, "loss": 2.5}\n')
    with tracking.run(stage="pretrain", name="main", key="base-key", params={}, tags={}) as run:
        run.log({}, tmp_path)
    traced = LINEAGE | {"step.pretrain.main": "base-key", "data_md5": "5.dir", lineage.DOCUMENT: DOCUMENT}
    registered = register(model(12), report(1.0), "encyclopaedia", lineage=traced)
    register(model(13), report(0.9), "rival", lineage=LINEAGE)
    register(model(14), report(0.95), "giant", lineage={"data_digest": "d2"})
    giant = catalogue.find("giant/1")
    tracking.log_metrics(giant.run_id, {"parameters": 2e6, "score": 9.0}, giant.model_id)
    with tracking.as_default():
        exec(code.replace("sqlite:///.evergreen/mlflow.db", tracking.uri()), {})
    said = capsys.readouterr().out
    assert "1 promoted 0.3" in said
    assert "['d1', '5.dir', None]" in said
    same = re.search(r"\[\('.*\)\]", said)
    assert same, said
    assert {"encyclopaedia", "rival"} <= {name for name, _ in literal_eval(same[0])}
    assert "giant" not in same[0]
    assert "lifecycle c0ffee 0" in said
    assert "encyclopaedia 1 1.3" in said  # the giant scores 9, above the limit
    assert registered.summary["version"] == 1
    assert "[(4, 2.5)]" in said
    assert "LlamaForCausalLM" in said


@pytest.mark.parametrize("reference", ["round/7", "round@nobody", "nobody", "round/1@champion", ""])
def test_what_does_not_exist_is_refused_with_what_does(reference, model, report):
    if "round" not in {each["name"] for each in catalogue.listing()}:
        register(model(1), report(1.0), "round")
    with pytest.raises(RegistryError, match=r"no model answers to .*round/1 \(round@champion\)"):
        catalogue.resolve(reference)


def test_a_name_that_no_folder_can_bear_is_refused(model, report):
    with pytest.raises(RegistryError, match=r"'\.\./x' cannot name a model"):
        register(model(1), report(1.0), "../x")


def test_a_version_that_somebody_registered_by_hand_is_listed(model, tmp_path):
    store = tracking.client()
    store.create_registered_model("by-hand")
    store.create_model_version("by-hand", source=tmp_path.as_uri())
    (entry,) = catalogue.listing("by-hand")
    assert (entry["run_id"], entry["metrics"], entry["verdict"]) == ("", {}, "undecided")


def entry(name, *, parameters=None, data="", **metrics):
    found = {"name": name, "version": 1, "parameters": parameters, "metrics": metrics}
    return found | {"data_key": f"{data}-key", "data_digest": f"{data}-digest", "data_md5": f"{data}-md5"}


ENTRIES = [
    entry("small", parameters=10, data="a", score=0.5, loss=3.0),
    entry("large", parameters=2000, data="b", score=0.9, loss=2.0),
    entry("unsized", data="a", score=0.7, loss=2.5),
    entry("unmeasured", parameters=5),
]


def names(entries):
    return [each["name"] for each in entries]


def test_the_best_is_the_highest_score_the_lowest_loss_and_fits_the_limit():
    assert names(catalogue.ranked(ENTRIES, "score")) == ["large", "unsized", "small"]
    assert names(catalogue.ranked(ENTRIES, "loss")) == ["large", "unsized", "small"]
    assert names(catalogue.ranked(ENTRIES, "score", under=2000)) == ["small"]
    assert names(catalogue.ranked(ENTRIES, "score", under=2001)) == ["large", "small"]
    assert catalogue.ranked([], "score") == []


def test_what_a_ranking_leaves_out_is_said(caplog, monkeypatch):
    monkeypatch.setattr(catalogue.logger.parent, "propagate", True)
    catalogue.ranked(ENTRIES, "score", under=2001)
    assert "2 of 4 versions have no score or no recorded size: left out" in caplog.text


def test_a_metric_that_no_version_has_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="no version has the metric 'speed'; the metrics are: loss, score"):
        catalogue.ranked(ENTRIES, "speed")


@pytest.mark.parametrize("asked", ["a-key", "a-d", "a-md5"])
def test_data_are_named_by_key_digest_or_md5_or_the_start_of_one(asked):
    assert names(catalogue.trained_on(asked, ENTRIES)) == ["small", "unsized"]
    assert catalogue.trained_on("c", ENTRIES) == []


def test_the_record_of_a_version_comes_back_whole(model, report):
    traced = LINEAGE | {"data_key": "k", lineage.DOCUMENT: DOCUMENT, lineage.PARENT: "round/1"}
    register(model(15), report(1.0), "told", lineage=traced)
    version = catalogue.find("told")
    told = reproduction.record_of(version)
    assert DOCUMENT.items() <= told.items()
    assert told["tags"] | {"data_key": "k", lineage.PARENT: "round/1", registry.ROW: "aligned"} == told["tags"]
    assert lineage.DOCUMENT not in version.tags
    tracking.client().set_model_version_tag("told", "1", "data_key", "another")
    with pytest.raises(RegistryError, match=r"told/1 has two records: its tag data_key says another, .* k; one was"):
        reproduction.record_of(catalogue.find("told"))


def test_a_version_without_a_record_says_so(model, report):
    store = tracking.client()
    store.create_registered_model("bare")
    version = store.create_model_version("bare", source="file:///nowhere")
    with pytest.raises(RegistryError, match=r"bare/1 has no lineage.json in its run \(none\)"):
        lineage.read(version)


def test_a_registered_parent_is_found_in_another_home_without_a_registry(model, report, tmp_path, monkeypatch):
    made = model(16)
    told = {"model": {"step": "sft/lora", "weights": weights.digest(made.model)}}
    registered = register(made, report(1.0), "parent", lineage=LINEAGE | {lineage.DOCUMENT: told})
    reproduction.bring_parent(told, catalogue.find("parent/1"), tmp_path / "elsewhere")
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    found = catalogue.resolve("parent/1")
    assert found.is_relative_to(tmp_path / "elsewhere")
    before, after = (catalogue.checkpoint(each) for each in (registered.path, found))
    assert (after.key, after.digest, after.name) == (before.key, before.digest, before.name)


def test_a_parent_with_other_weights_than_recorded_is_refused(model, report, tmp_path):
    told = {"model": {"step": "sft/lora", "weights": "0" * 64}}
    register(model(17), report(1.0), "forged", lineage=LINEAGE | {lineage.DOCUMENT: told})
    with pytest.raises(RegistryError, match=r"forged/1, .* recorded are 0000000000000000; .*--whole-chain"):
        reproduction.bring_parent(told, catalogue.find("forged/1"), tmp_path)
