import json
import subprocess

import pytest

from tasks import lineage, pointers
from tasks.artifacts import Checkpoint, Dataset, EvaluationReport
from tasks.settings import home
from tests import versions

CODE = {"commit": "c", "dirty": False, "changed": []}


def finished(stage, name, key, inputs, summary):
    folder = home() / "store" / stage / key
    folder.mkdir(parents=True)
    identity = {"stage": stage, "name": name, "recipe": {"seed": 1}, "inputs": inputs}
    manifest = {
        "key": key, "digest": key + "d", "identity": identity, "summary": summary, "inputs": {}, "run_id": "r",
        "execution": {"threads": 1},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def model():
    """A chain from data to an adapted model, an evaluation beside it, and what the registry asks for."""
    data = finished("data", "data", "d", {}, {})
    (data / "train.jsonl").write_text("{}\n")
    finished("tokenizer", "bpe", "t", {"dataset": "d"}, {})
    finished("scaling", "fit", "f", {"tokenizer": "t"}, {"loss": 4.0})
    finished("pretrain", "main", "p", {"forecast": "f", "dataset": "d"}, {"loss": 4.1})
    path = finished("sft", "lora", "s", {"base": "p"}, {})
    evaluated = finished("evaluate", "compare", "e", {"sft": "s"}, {})
    figures = {"items": 7, "items_digest": "i", "rows": {"sft": {"score": {"mean": 0.5, "low": 0.4, "high": 0.6}}}}
    (evaluated / "metrics.json").write_text(json.dumps(figures))
    return (
        Checkpoint(stage="sft", name="lora", key="s", digest="sd", path=path, inputs={"base": "pd"}),
        EvaluationReport(stage="evaluate", name="compare", key="e", digest="ed", path=evaluated),
        Dataset(stage="data", name="data", key="d", digest="dd", path=data),
    )


def test_every_step_behind_a_model_is_found_once_parents_first():
    finished("data", "data", "d", {}, {})
    finished("tokenizer", "bpe", "t", {"dataset": "d"}, {})
    finished("pretrain", "main", "p", {"tokenizer": "t", "forecast": "gone"}, {})
    finished("sft", "lora", "s", {"base": "p", "dataset": "d"}, {})
    assert [each["key"] for each in lineage.ancestors(["s", "p"])] == ["d", "t", "p", "s"]


def test_a_model_leads_back_to_data_recipes_and_code(model):
    tags = lineage.tags(lineage.trace(*model))
    expected = {
        "data_digest": "dd", "data_key": "d", "model_digest": "sd", "report_key": "e", "parent.base": "pd",
        "tokenizer_digest": "td", "report_digest": "ed", "parameters": "0",
        "step.scaling.fit": "f", "step.pretrain.main": "p", "step.sft.lora": "s", "step.data.data": "d",
        "forecast_loss": "4.0", "pretrain_loss": "4.1",
    }  # fmt: skip
    assert expected.items() <= tags.items()
    assert tags["data_md5"] == pointers.list_md5({"train.jsonl": pointers.md5_of(model[2].path / "train.jsonl")})
    assert not {"data_commit", "flow"} & tags.keys()
    assert all(isinstance(value, str) and 0 < len(value) < 500 for value in tags.values())


def test_the_document_holds_what_the_tags_cannot(model):
    made_by = lineage.Origin(flow="lifecycle", entrypoint="flows.lifecycle.lifecycle", parameters={"name": "x"})
    traced = lineage.trace(*model, made_by) | {lineage.PARENT: "x/3"}
    told = json.loads(json.dumps(lineage.document(traced, {"evergreen.row": "sft"})))
    assert told["made_by"] == made_by.model_dump(exclude={"code"})
    assert told["code"].keys() == {"commit", "dirty", "changed"}
    assert lineage.trace(*model, made_by.model_copy(update={"code": CODE}))["git_commit"] == "c"
    assert told["tags"][lineage.PARENT] == "x/3"
    assert told["tags"]["evergreen.row"] == "sft"
    assert [each["step"] for each in told["steps"]] == [
        "data/data", "tokenizer/bpe", "scaling/fit", "pretrain/main", "sft/lora", "evaluate/compare",
    ]  # fmt: skip
    assert all(each["identity"]["recipe"] == {"seed": 1} and len(each["recipe_digest"]) == 64 for each in told["steps"])
    assert told["parents"] == {"base": {"step": "pretrain/main", "key": "p", "digest": "pd"}}
    assert told["evaluation"]["rows"]["sft"]["score"]["mean"] == 0.5
    assert told["platform"]["libraries"]["torch"]


def test_the_commit_whose_pointer_names_the_data_is_found():
    from tasks.versioning import version_data

    dataset = versions.made()
    version_data.fn(dataset)
    md5 = versions.pointer()["outs"][0]["md5"]
    assert lineage.data_commit(md5) == ""
    versions.git("init")
    sha = versions.commit("the data")
    assert lineage.data_commit(md5) == sha
    version_data.fn(versions.made("two"))
    versions.commit("other data")
    assert lineage.data_commit(md5) == sha
    assert lineage._data(dataset) | {"commit": sha, "md5": md5, "files": 3} == lineage._data(dataset)


def test_code_is_dirty_where_a_file_of_it_changed_and_not_where_a_pointer_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(lineage, "ROOT", tmp_path)
    assert (lineage.head(), lineage.changed_code()) == ("", [])

    def git(*words):
        return subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    for file in ("tasks/a.py", "data.dvc", "models/m.dvc", "prefect.yaml", "docs/a.md"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("one")
    git("add", ".")
    git("-c", "user.name=Somebody", "-c", "user.email=s@example.org", "commit", "--quiet", "-m", "one")
    assert lineage.head() == git("rev-parse", "HEAD").strip()
    for file in ("data.dvc", "models/m.dvc", "models/n.dvc", "docs/a.md"):
        (tmp_path / file).write_text("two")
    assert lineage.changed_code() == []
    for file in ("tasks/a.py", "tasks/new.py"):
        (tmp_path / file).write_text("two")
    assert lineage.changed_code() == ["tasks/a.py", "tasks/new.py"]


def test_outside_of_a_flow_nothing_made_it():
    assert lineage.origin().model_dump(exclude={"code"}) == lineage.Origin().model_dump(exclude={"code"})


def test_inside_a_flow_its_parameters_are_recorded_with_their_defaults(monkeypatch):
    from types import SimpleNamespace

    from prefect import flow
    from prefect.context import FlowRunContext

    @flow
    def retrain(model: str = "x@champion", data: str = "latest", recipe: lineage.Origin = lineage.Origin(flow="a")):
        """A flow with a recipe."""

    context = SimpleNamespace(flow=retrain, parameters={"data": "latest"})
    monkeypatch.setattr(FlowRunContext, "get", lambda: context)
    found = lineage.origin()
    assert (found.flow, found.entrypoint) == ("retrain", f"{__name__}.retrain")
    assert found.code.keys() == {"commit", "dirty", "changed"}
    assert found.parameters == {
        "model": "x@champion",
        "data": "latest",
        "recipe": lineage.Origin(flow="a").model_dump(),
    }
