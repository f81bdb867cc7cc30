import json

from tasks import lineage
from tasks.artifacts import Checkpoint, Dataset, EvaluationReport
from tasks.settings import home


def finished(stage, name, key, inputs, summary):
    folder = home() / "store" / stage / key
    folder.mkdir(parents=True)
    identity = {"stage": stage, "name": name, "recipe": {"seed": 1}, "inputs": inputs}
    (folder / "manifest.json").write_text(json.dumps({"key": key, "identity": identity, "summary": summary}))
    return folder


def test_every_step_behind_a_model_is_found_once_parents_first():
    finished("data", "data", "d", {}, {})
    finished("tokenizer", "bpe", "t", {"dataset": "d"}, {})
    finished("pretrain", "main", "p", {"tokenizer": "t", "forecast": "gone"}, {})
    finished("sft", "lora", "s", {"base": "p", "dataset": "d"}, {})
    assert [each["key"] for each in lineage.ancestors(["s", "p"])] == ["d", "t", "p", "s"]


def test_a_model_leads_back_to_data_recipes_and_code():
    finished("data", "data", "d", {}, {})
    finished("scaling", "fit", "f", {}, {"loss": 4.0})
    finished("pretrain", "main", "p", {"forecast": "f", "dataset": "d"}, {"loss": 4.1})
    path = finished("sft", "lora", "s", {"base": "p"}, {})
    model = Checkpoint(stage="sft", name="lora", key="s", digest="sd", path=path, inputs={"base": "pd"})
    report = EvaluationReport(stage="evaluate", name="compare", key="e", digest="ed", path=path)
    tags = lineage.trace(model, report, Dataset(stage="data", name="data", key="d", digest="dd", path=path))
    expected = {
        "data_digest": "dd", "data_key": "d", "model_digest": "sd", "report_key": "e", "parent.base": "pd",
        "step.scaling.fit": "f", "step.pretrain.main": "p", "step.sft.lora": "s", "step.data.data": "d",
        "forecast_loss": "4.0", "pretrain_loss": "4.1",
    }  # fmt: skip
    assert expected.items() <= tags.items()
    assert all(isinstance(value, str) for value in tags.values())
