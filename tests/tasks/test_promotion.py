"""The champion: who takes over, who does not, the way back, and what a killed or broken promotion leaves."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks import catalogue, parity, pointers, promotion, registry, tracking
from tasks.catalogue import VERDICT
from tasks.errors import DataVersionError, GateError, RegistryError, UsageError
from tasks.rival import Rival
from tasks.settings import project
from tests import contest
from tests.contest import aliases, register, scored, submit

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("registry_places")]


def verdicts(name):
    return [each["verdict"] for each in reversed(catalogue.listing(name))]


def pointer(name):
    return pointers.read(project() / "models" / name).md5


def recorded(name, number):
    return catalogue.find(f"{name}/{number}").tags["dvc.md5"]


def damage(version):
    import mlflow

    with tracking.as_default():
        kept = Path(mlflow.artifacts.download_artifacts(version.source))
    (kept / "model" / "model.safetensors").unlink()


def changes(name):
    runs = tracking.client().search_runs([tracking.experiment()], f"tags.model = '{name}'", order_by=["start_time ASC"])
    return [(run.data.params["change"], run.data.params["from"], run.data.params["to"]) for run in runs]


def test_a_better_model_takes_over_and_a_worse_one_moves_nothing(model, report):
    submit(model(3), report(0.8), "line")
    assert aliases("line") == {"champion": 1}
    better = submit(model(4), report(1.0), "line")
    assert better.summary["verdict"] == "promoted"
    assert aliases("line") == {"champion": 2, "previous": 1}
    assert pointer("line") == recorded("line", 2) != recorded("line", 1)
    worse = submit(model(5), report(0.9), "line")
    assert worse.summary["verdict"] == "not promoted"
    assert worse.summary["reasons"][0].startswith("score against champion -0.100 [")
    assert aliases("line") == {"champion": 2, "previous": 1, "challenger": 3}
    assert verdicts("line") == ["promoted", "promoted", "not promoted"]
    assert catalogue.resolve("line@challenger") == worse.path != catalogue.resolve("line") == better.path
    assert pointer("line") == recorded("line", 2)
    assert changes("line") == [("promotion", "", "1"), ("promotion", "1", "2")]


def test_a_champion_that_was_scored_on_other_items_is_scored_again(model, report):
    submit(model(6), report(1.0), "again")
    asked = []

    def again(champion):
        asked.append(champion.version)
        items = {f"i{n:02}": scored(n < 30) for n in range(40)}
        return Rival(yardstick="items-2", items=items, texts={f"t{n}": 2.0 for n in range(40)}, parameters=1000)

    second = submit(model(7), report(1.0, "items-2"), "again", again)
    assert [str(number) for number in asked] == ["1"]
    assert second.summary["checks"][1]["value"] == pytest.approx(0.25)
    assert aliases("again")["champion"] == 2


def test_weights_that_cannot_be_versioned_leave_the_champion_and_the_next_run_goes_on(
    model, report, tmp_path, monkeypatch
):
    first, made, told = submit(model(8), report(0.8), "safe"), model(9), report(1.0)
    (tmp_path / "models").write_text("a file where a folder should be")
    with monkeypatch.context() as broken:
        broken.setenv("EVERGREEN_PROJECT", str(tmp_path))
        with pytest.raises((OSError, DataVersionError)):
            submit(made, told, "safe")
    assert aliases("safe") == {"champion": 1, "challenger": 2}
    assert catalogue.resolve("safe") == first.path
    second = submit(made, told, "safe")
    assert second.summary["version"] == 2
    assert aliases("safe") == {"champion": 2, "previous": 1}


def test_an_export_that_says_something_else_than_the_trained_model_is_not_promoted(model, report):
    made = model(20)
    said = json.loads((made.path / "export.json").read_text())
    said["probes"][2]["loss"] += 0.5
    (made.path / "export.json").write_text(json.dumps(said))
    refused = submit(made, report(1.0), "parity")
    assert refused.summary["verdict"] == "not promoted"
    first = "its export is not the model that was trained: MLflow's own form: the loss of 1 of 8 probes differs, as "
    assert refused.summary["reasons"][0].startswith(first)
    assert len(refused.summary["reasons"]) == 2
    assert aliases("parity") == {"challenger": 1}
    assert pointer("parity") == ""


@pytest.mark.parametrize("first", [True, False])
def test_a_champion_that_fails_its_trial_gives_way_at_once(model, report, monkeypatch, first):
    name = f"smoke-{first}".lower()
    if not first:
        submit(model(21), report(0.8), name)
    before, pointed = {} if first else aliases(name), pointer(name)
    place = promotion._place_weights

    def place_and_damage(version):
        """As a disk would: what MLflow keeps is cut after the export was tried."""
        placed = place(version)
        if registry.number(version) == ("1" if first else "2"):
            damage(version)
        return placed

    with monkeypatch.context() as broken:
        broken.setattr(promotion, "_place_weights", place_and_damage)
        failed = submit(model(22), report(1.0), name)
    assert failed.summary["verdict"] == "not promoted"
    assert failed.summary["reasons"][0].startswith("it failed as the champion and was taken back: cannot be used: ")
    number = failed.summary["version"]
    assert aliases(name) == {**before, "challenger": number}
    assert pointer(name) == pointed


def test_a_promotion_that_was_killed_after_the_swap_is_tried_and_finished_by_the_next_one(model, report, monkeypatch):
    submit(model(23), report(0.8), "killed")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(parity, "smoke", die)
        with pytest.raises(KeyboardInterrupt):
            submit(model(24), report(1.0), "killed")
    assert aliases("killed")["champion"] == 2
    assert verdicts("killed") == ["promoted", "passed"]
    with promotion.changing("killed"):
        pass
    assert verdicts("killed") == ["promoted", "promoted"]
    assert aliases("killed") == {"champion": 2, "previous": 1}
    assert pointer("killed") == recorded("killed", 2)


def test_a_killed_promotion_whose_model_fails_its_trial_is_taken_back_by_the_next_one(model, report, monkeypatch):
    submit(model(25), report(0.8), "undone")
    made = model(26)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(parity, "smoke", die)
        with pytest.raises(KeyboardInterrupt):
            submit(made, report(1.0), "undone")
    damage(catalogue.find("undone/2"))
    with promotion.changing("undone"):
        pass
    assert verdicts("undone") == ["promoted", "not promoted"]
    assert aliases("undone") == {"champion": 1, "challenger": 2}
    assert pointer("undone") == recorded("undone", 1)


def test_a_verdict_against_a_champion_that_is_gone_is_given_again(model, report):
    submit(model(27), report(0.8), "late")
    told = report(0.9)
    asked = contest.contest(told)
    waiting = promotion.judge.fn(register(model(28), told, "late"), asked)
    assert waiting.summary["verdict"] == "passed"
    submit(model(29), report(1.0), "late")
    late = promotion.promote.fn(waiting, asked)
    assert late.summary["verdict"] == "not promoted"
    assert aliases("late")["champion"] == 3


def test_a_person_may_say_no(model, report):
    told = report(1.0)
    asked = contest.contest(told)
    waiting = promotion.judge.fn(register(model(30), told, "asked"), asked)
    declined = promotion.decline(waiting, "nobody agreed within 12 hours")
    assert promotion.promote.fn(declined, asked).summary["reasons"] == ["nobody agreed within 12 hours"]
    assert aliases("asked") == {"challenger": 1}


def test_rollback_puts_the_previous_champion_back_and_what_it_had_replaced_behind_it(model, report):
    for seed, share in ((31, 0.8), (32, 0.9), (33, 1.0)):
        submit(model(seed), report(share), "back")
    assert aliases("back") == {"champion": 3, "previous": 2}
    said = promotion.rollback("back", why="users complain", by="ann")
    assert said["version"] == 2
    assert aliases("back") == {"champion": 2, "previous": 1}
    assert pointer("back") == recorded("back", 2)
    tags = catalogue.find("back/3").tags
    assert (tags[VERDICT], tags["rolled_back_by"], tags["rolled_back_why"]) == ("rolled back", "ann", "users complain")
    promotion.rollback("back")
    assert aliases("back") == {"champion": 1}
    with pytest.raises(RegistryError, match="back has no previous champion to put back"):
        promotion.rollback("back")
    assert changes("back")[3:] == [("rollback", "3", "2"), ("rollback", "2", "1")]


def test_a_version_is_promoted_by_hand_only_through_the_gate_or_with_a_reason(model, report):
    submit(model(34), report(1.0), "hand")
    submit(model(35), report(0.9), "hand")
    with pytest.raises(GateError, match=r"hand/2 is not promoted: score against champion -0\.100"):
        promotion.challenge("hand/2")
    with pytest.raises(UsageError, match="a forced promotion needs a reason"):
        promotion.force("hand/2", why=" ")
    assert aliases("hand") == {"champion": 1, "challenger": 2}
    said = promotion.force("hand/2", why="the items miss what users ask", by="ann")
    assert (said["version"], said["verdict"]) == (2, "promoted")
    assert aliases("hand") == {"champion": 2, "previous": 1}
    tags = catalogue.find("hand/2").tags
    assert (tags["forced_by"], tags["forced_why"]) == ("ann", "the items miss what users ask")
    assert promotion.challenge("hand/2")["version"] == 2


def test_what_has_no_evaluation_is_promoted_by_force_alone(model):
    made = model(36)
    store = tracking.client()
    store.create_registered_model("unmeasured")
    with tracking.run(stage="test", name="by-hand", key="by-hand", params={}, tags={}) as run, tracking.as_default():
        from tasks.registry import log_model

        model_id = log_model(run.id, "unmeasured", made.model)
        store.create_model_version("unmeasured", f"models:/{model_id}", run.id, model_id=model_id)
    with pytest.raises(RegistryError, match="unmeasured/1 was registered without an evaluation"):
        promotion.challenge("unmeasured/1")
    assert promotion.force("unmeasured/1", why="first")["aliases"] == ["champion"]


def test_two_at_once_leave_one_champion(model, report):
    pairs = [(model(10), report(0.9)), (model(11), report(1.0))]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda pair: submit(*pair, "pair"), pairs))
    champion = aliases("pair")["champion"]
    assert sorted(each.summary["version"] for each in done) == [1, 2]
    assert done[[each.summary["version"] for each in done].index(champion)].summary["verdict"] == "promoted"
