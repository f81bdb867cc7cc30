"""What a registered version says of itself, and the questions that the catalogue answers."""

import pytest

from tasks import catalogue, lineage, registry, reproduction, tracking, weights
from tasks.errors import RegistryError, UsageError
from tests.contest import LINEAGE, register

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("registry_places")]
DOCUMENT = {"made_by": {"flow": "lifecycle"}, "code": {"commit": "c0ffee"}, "steps": []}


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


def test_a_registered_parent_is_the_same_version_in_another_registry(model, report, tmp_path, monkeypatch):
    made = model(16)
    told = {"model": {"step": "sft/lora", "weights": weights.digest(made.model)}, "data": {"key": "d"}, "steps": []}
    register(model(18), report(0.9), "parent")
    registered = register(made, report(1.0), "parent", lineage=LINEAGE | {lineage.DOCUMENT: told})
    reproduction.bring_parent(told, catalogue.find("parent/2"), tmp_path / "elsewhere")
    assert [each["version"] for each in catalogue.listing("parent")] == [2, 1]
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert [each["version"] for each in catalogue.listing("parent")] == [2]
    assert catalogue.find("parent/2").tags["data_digest"] == "d1"
    found = catalogue.resolve("parent@champion")
    assert found == catalogue.resolve("parent/2")
    assert found.is_relative_to(tmp_path / "elsewhere")
    before, after = (catalogue.checkpoint(each) for each in (registered.path, found))
    assert (after.key, after.digest, after.name) == (before.key, before.digest, before.name)


def test_a_parent_with_other_weights_than_recorded_is_refused(model, report, tmp_path):
    told = {"model": {"step": "sft/lora", "weights": "0" * 64}, "data": {"key": "d"}, "steps": []}
    register(model(17), report(1.0), "forged", lineage=LINEAGE | {lineage.DOCUMENT: told})
    with pytest.raises(RegistryError, match=r"forged/1, .* recorded are 0000000000000000; "):
        reproduction.bring_parent(told, catalogue.find("forged/1"), tmp_path)
