"""What is registered, how it is found again, and the questions that plain MLflow answers."""

import re

import pytest

from tasks import catalogue, registry, tracking
from tasks.errors import RegistryError
from tasks.gate import Gate
from tasks.settings import ROOT
from tests.contest import GATE, LINEAGE, register, scored, submit

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("registry_places")]


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
    registered = submit(made, told, "round")
    assert registered.summary["verdict"] == "promoted"
    assert registered.summary["version"] == 1
    assert registered.summary["aliases"] == ["champion"]
    assert registered.inputs["model"] == made.digest
    assert all(check["ok"] for check in registered.summary["checks"])
    assert len(registered.summary["reasons"]) == 9

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
        "data_digest": "d1", "run_id": registered.run_id,
    }  # fmt: skip
    metrics = tracking.client().get_run(registered.run_id).data.metrics
    assert metrics["sft/score"] == 0.8
    assert metrics["aligned/score/high"] == 99.0


def test_the_same_registration_is_reused_and_another_gate_is_another(model, report):
    made, told = model(2), report(1.0)
    first, second, third = (submit(made, told, "same"), register(made, told, "same"), submit(made, told, "same"))
    assert (first.reused, second.reused) == (False, True)
    assert second.model_copy(update={"reused": False}) == first
    assert third == second
    wanted = registry.key("same", made.key, told.key, GATE)
    assert first.key == wanted
    assert registry.status("same", wanted).reused
    other = registry.key("same", made.key, told.key, Gate())
    assert registry.status("same", other).why == "no version of same has this model, evaluation and gate"


def test_the_queries_of_the_page_run_as_written(model, report, tmp_path, capsys):
    page = (ROOT / "docs" / "registry.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "history.jsonl").write_text('{"step": 4, "loss": 2.5}\n')
    with tracking.run(stage="pretrain", name="main", key="base-key", params={}, tags={}) as run:
        run.log({}, tmp_path)
    submit(model(12), report(1.0), "encyclopaedia", lineage=LINEAGE | {"step.pretrain.main": "base-key"})
    with tracking.as_default():
        exec(code.replace("sqlite:///.evergreen/mlflow.db", tracking.uri()), {})
    said = capsys.readouterr().out
    assert "1 promoted 0.3" in said
    assert "[(4, 2.5)]" in said
    assert "LlamaForCausalLM" in said


@pytest.mark.parametrize("reference", ["round/7", "round@nobody", "nobody", "round/1@champion", ""])
def test_what_does_not_exist_is_refused_with_what_does(reference, model, report):
    if "round" not in {each["name"] for each in catalogue.listing()}:
        submit(model(1), report(1.0), "round")
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


def test_the_weights_are_copied_byte_for_byte(model, report):
    made = model(13)
    registered = register(made, report(1.0), "bytes")
    assert (registered.path / "model.safetensors").read_bytes() == (made.model / "model.safetensors").read_bytes()
    assert registered.summary["verdict"] == "undecided"
    assert registered.summary["aliases"] == ["challenger"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_config.json"])
def test_pickled_weights_and_adapters_are_refused_before_anything_is_registered(model, report, name):
    made = model(14)
    (made.model / name).write_text("{}")
    with pytest.raises(RegistryError, match=f"holds {name}: a registered model is merged and in safetensors"):
        register(made, report(1.0), f"refused-{name[:5]}")
    assert catalogue.models().get(f"refused-{name[:5]}", {}) == {}


def test_a_folder_without_weights_is_refused(model, report):
    made = model(15)
    (made.model / "model.safetensors").unlink()
    with pytest.raises(RegistryError, match="holds no weights"):
        register(made, report(1.0), "empty")


def test_the_step_behind_a_registered_model_is_found_by_its_folder(model, report):
    made = register(model(13), report(1.0), "origin", lineage=LINEAGE | {"model_key": "step-of-13"})
    assert catalogue.origin(catalogue.checkpoint(made.path).key) == "step-of-13"
    assert catalogue.origin("nowhere") == ""
