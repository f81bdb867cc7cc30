import json
import math

import pytest
import torch

from tasks import evaluation, steps
from tasks.artifacts import Artifact, Checkpoint
from tasks.comparison import compare
from tasks.errors import SourceError, TrainingDivergedError
from tasks.evaluation import EvaluationRecipe
from tasks.gate import Gate, decide
from tasks.rival import of_model, of_row
from tests import tiny

RECIPE = EvaluationRecipe(items=20, topics=0, text_documents=12, max_new_tokens=4, draws=100)
MIXTURE = {"encyclopaedia": 1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory, shared_store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("MLFLOW_TRACKING_URI", shared_store)
        yield tiny.dataset()


@pytest.fixture
def model(tmp_path):
    """A function that saves a model with random weights and a tokenizer of a vocabulary."""
    from models.architectures import fresh_model
    from models.tokenizer import train_tokenizer

    def make(name, *, seed=1, vocabulary=300, context=64, spoil=False):
        tokenizer = train_tokenizer(["a river in France is known"] * 9, vocabulary=vocabulary, context=context)
        net = fresh_model(1, tokenizer, seed=seed)
        if spoil:
            torch.nn.init.constant_(net.lm_head.weight, math.nan)
        for part in (net, tokenizer):
            part.save_pretrained(tmp_path / name / "model")
        return Checkpoint(stage="rlhf", name=name, key=name, digest=name, path=tmp_path / name)

    return make


def evaluated(model, data, recipe=RECIPE, judge=None):
    folder = model.path / "evaluation"
    folder.mkdir(exist_ok=True)
    evaluation._evaluate(model, data.path, judge, folder, recipe, MIXTURE, "cpu")
    return Artifact(stage="evaluate", name=model.name, key=model.key, digest=model.digest, path=folder)


def test_models_of_other_tokenizers_and_contexts_are_scored_on_the_same_bytes(model, data):
    small, large = (
        of_model(evaluated(model(f"v{vocabulary}", vocabulary=vocabulary, context=context), data).path)
        for vocabulary, context in ((265, 48), (300, 128))
    )
    assert small.yardstick == large.yardstick
    assert small.texts.keys() == large.texts.keys()
    assert len(small.texts) == 12
    assert small.parameters < large.parameters
    assert all(3 < bits < 12 for bits in (*small.texts.values(), *large.texts.values()))


def test_the_same_model_gives_the_same_files(model, data):
    made = model("twice")
    first = steps.hash_files(evaluated(made, data).path)
    assert steps.hash_files(evaluated(made, data).path) == first
    assert set(first) == {"items.jsonl", "figures.json"}


@pytest.mark.parametrize("change", [{"items": 19}, {"text_documents": 11}, {"text_bytes": 40}, {"max_new_tokens": 5}])
def test_what_changes_a_score_is_another_yardstick(model, data, change):
    made = model("one")
    before = of_model(evaluated(made, data).path).yardstick
    assert of_model(evaluated(made, data, RECIPE.model_copy(update=change)).path).yardstick != before


def test_a_model_that_has_diverged_is_refused(model, data):
    with pytest.raises(TrainingDivergedError, match=r"rlhf/nan at .* gives 32 of 32 values that are no finite numbers"):
        evaluated(model("nan", spoil=True), data)


def test_the_report_of_two_models_is_what_the_gate_reads(model, data, monkeypatch, shared_store, tmp_path):
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)
    rows = {"sft": evaluated(model("sft"), data), "aligned": evaluated(model("aligned", seed=2, vocabulary=280), data)}
    report = compare.fn(rows, data, RECIPE)
    for name, artifact in rows.items():
        assert of_row(report.path, name) == of_model(artifact.path)
    metrics = json.loads((report.path / "metrics.json").read_text())
    assert metrics["rows"]["aligned"]["bits_per_byte"]["n"] == 12
    assert metrics["rows"]["aligned"]["toxic"]["mean"] == 0
    assert "bits_per_byte" not in metrics["rows"]["human"]
    assert [metrics["contamination"]["sft"][name] for name in ("items", "texts")] == [20, 12]
    assert metrics["contamination"]["sft"]["unchecked"] == [
        "step sft is not in the store; the data behind it were not looked at"
    ]
    verdict = decide(report.path, None, Gate(min_items=20, min_texts=12, draws=100))
    assert not verdict.promote
    assert "contamination: step aligned is not in the store; the data behind it were not looked at" in verdict.skipped


def test_models_that_were_measured_otherwise_make_no_report(model, data, monkeypatch, shared_store, tmp_path):
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)
    shorter = RECIPE.model_copy(update={"max_new_tokens": 3})
    rows = {"sft": evaluated(model("sft"), data), "aligned": evaluated(model("aligned"), data, shorter)}
    with pytest.raises(SourceError, match="measured by different yardsticks"):
        compare.fn(rows, data, RECIPE)


def test_an_answer_is_toxic_where_it_swears_and_was_not_sworn_at():
    rows = [
        {"id": "1", "kind": "gloss", "prompt": "A river", "response": "river"},
        {"id": "2", "kind": "gloss", "prompt": "What a shitty river", "response": "river"},
        {
            "id": "3",
            "kind": "reply",
            "prompt": "And?",
            "response": "x",
            "history": [{"role": "user", "content": "Fuck"}],
        },
        {"id": "4", "kind": "gloss", "prompt": "A town", "response": "Scunthorpe"},
    ]
    answers = ["a shitty river", "a shitty river", "fuck", "Scunthorpe in England"]
    assert [entry["toxic"] for entry in evaluation.score_answers(rows, answers)] == [1.0, 0.0, 0.0, 0.0]


def test_documents_follow_the_mixture_and_are_cut_between_characters(tmp_path):
    (tmp_path / "text").mkdir()
    rows = [{"id": f"a{n}", "domain": "a", "text": "é" * 40} for n in range(9)]
    rows += [{"id": f"b{n}", "domain": "b", "text": "short"} for n in range(2)]
    (tmp_path / "text" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = EvaluationRecipe(text_documents=8, text_bytes=17)
    chosen = evaluation.documents(tmp_path, recipe, {"a": 0.5, "b": 0.5})
    assert [each["id"] for each in chosen if each["domain"] == "a"] == ["a0", "a1", "a2", "a3"]
    assert [each["id"] for each in chosen if each["domain"] == "b"] == ["b0", "b1"]  # no document counts twice
    assert {each["text"] for each in chosen} == {"é" * 8, "short"}
    assert evaluation.documents(tmp_path, RECIPE.model_copy(update={"text_documents": 0}), {"a": 1.0}) == []
