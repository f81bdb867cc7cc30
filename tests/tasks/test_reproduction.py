"""What a rerun is held against, and what is laid ready for it; the rerun itself is in tests/flows/test_lifecycle.py."""

import copy
import json
import subprocess

import pytest

from tasks import lineage, machine, reproduction, steps
from tasks.errors import DataVersionError, RegistryError
from tasks.settings import home, project
from tests import versions

HERE = {"machine": machine.facts(), "threads": 2}
THERE = {"machine": {**machine.facts(), "cpu": "another"}, "threads": 2}
CELL = {"mean": 0.5, "low": 0.45, "high": 0.6, "n": 9}


def step(title, *, execution=HERE, code="c1", digest=None):
    stage, name = title.split("/")
    identity = {
        "stage": stage, "name": name, "recipe": {}, "inputs": {}, "facts": {}, "code": {f"tasks.{stage}": code},
        "libraries": {"torch": "2"},
    }  # fmt: skip
    return {"step": title, "key": f"{name}-{code}", "digest": digest or f"digest-{title}", "identity": identity,
            "execution": execution, "inputs": {}, "summary": {}, "run_id": ""}  # fmt: skip


TITLES = ("ingest/rows", "data/dataset", "tokenizer/bpe", "pretrain/main", "rlhf/grpo", "evaluate/compare")


@pytest.fixture
def recorded():
    rows = {"aligned": {"score": CELL, "chars": {**CELL, "mean": 100.0, "low": 100.0, "high": 100.0}}}
    return {
        "steps": [step(title) for title in TITLES],
        "tags": {"evergreen.row": "aligned"},
        "evaluation": {"rows": rows, "key": "compare-c1"},
    }


@pytest.fixture
def rerun(tmp_path):
    """A function that writes a store of these steps; each may be changed, or left out with None."""

    def write(changes=(), means=(0.5, 100.0)):
        for title in TITLES:
            made = dict(changes).get(title, step(title))
            if made:
                folder = tmp_path / title.split("/")[0] / made["key"]
                folder.mkdir(parents=True)
                (folder / "manifest.json").write_text(json.dumps(made))
        figures = {
            "rows": {"aligned": {name: {"mean": mean} for name, mean in zip(("score", "chars"), means, strict=True)}}
        }
        for folder in (tmp_path / "evaluate").glob("*"):
            (folder / "metrics.json").write_text(json.dumps(figures))
        return tmp_path

    return write


def judged(recorded, store):
    return reproduction.verdict(reproduction.compare(recorded, store), reproduction.metrics(recorded, store))


def test_the_same_content_everywhere_is_identical(recorded, rerun):
    found = judged(recorded, rerun())
    assert (found["outcome"], found["reproduced"], found["first"]) == ("identical", True, "")
    assert "6 steps" in found["says"]


@pytest.mark.parametrize("title", TITLES)
def test_a_changed_record_is_noticed_by_the_name_of_its_step(recorded, rerun, title):
    store, changed = rerun(), copy.deepcopy(recorded)
    next(each for each in changed["steps"] if each["step"] == title)["digest"] = "0" * 64
    found = judged(changed, store)
    assert (found["outcome"], found["reproduced"], found["first"]) == ("different", False, title)
    assert found["says"].startswith(f"{title} gave digest-{title}"[:24])
    assert "recorded is 0000000000000000" in found["says"]
    assert "on the same platform" in found["says"]


def test_where_the_platform_differs_the_metrics_decide(recorded, rerun):
    other = {title: step(title, execution=THERE, digest="other") for title in ("pretrain/main", "rlhf/grpo")}
    found = judged(recorded, rerun(other, means=(0.59, 101.9)))
    assert (found["outcome"], found["reproduced"], found["first"]) == ("equivalent", True, "pretrain/main")
    assert f"cpu {machine.facts()['cpu']} -> another" in found["says"]
    assert "what was checked instead are the 2 metrics" in found["says"]


def test_a_metric_that_moved_too_far_is_no_reproduction_on_any_platform(recorded, rerun):
    found = judged(recorded, rerun({"pretrain/main": step("pretrain/main", execution=THERE, digest="x")}, (0.5, 102.1)))
    assert (found["outcome"], found["reproduced"]) == ("different", False)
    assert found["says"].endswith("explains: chars")


def test_a_platform_that_differs_only_after_the_first_difference_excuses_nothing(recorded, rerun):
    changes = {"tokenizer/bpe": step("tokenizer/bpe", digest="x"), "rlhf/grpo": step("rlhf/grpo", execution=THERE)}
    found = judged(recorded, rerun(changes))
    assert (found["outcome"], found["first"]) == ("different", "tokenizer/bpe")


def test_other_code_is_named_and_excuses_nothing(recorded, rerun):
    found = judged(recorded, rerun({"rlhf/grpo": step("rlhf/grpo", code="c2", digest="x")}))
    assert (found["outcome"], found["first"]) == ("different", "rlhf/grpo")
    assert "code of tasks.rlhf changed" in found["says"]


def test_other_code_that_gives_the_same_content_is_a_reproduction(recorded, rerun):
    assert judged(recorded, rerun({"rlhf/grpo": step("rlhf/grpo", code="c2")}))["outcome"] == "identical"


def test_a_report_with_the_same_metrics_is_the_same_whatever_else_it_found(recorded, rerun):
    rows = recorded["evaluation"]["rows"]["aligned"]
    store = rerun({"evaluate/compare": step("evaluate/compare", digest="x")})
    assert judged(recorded, store)["outcome"] == "different"  # the store's figures have no intervals
    (figures,) = store.glob("evaluate/*/metrics.json")
    figures.write_text(json.dumps({"rows": {"aligned": rows}, "contamination": "other"}))
    found = judged(recorded, store)
    assert (found["outcome"], found["says"].split("; ")[1][:36]) == (
        "identical",
        "evaluate/compare the recorded metrics"[:36],
    )
    rows["score"] = {**rows["score"], "mean": 0.51}
    assert judged(recorded, store)["first"] == "evaluate/compare"


def test_a_run_that_ended_early_is_a_failure_that_names_where(recorded, rerun):
    found = judged(recorded, rerun({"rlhf/grpo": None, "evaluate/compare": None}))
    assert (found["outcome"], found["reproduced"], found["first"]) == ("failed", False, "rlhf/grpo")


def test_no_metric_at_all_is_no_agreement(recorded, rerun):
    changes = {"pretrain/main": step("pretrain/main", execution=THERE, digest="x"), "evaluate/compare": None}
    assert judged(recorded, rerun(changes))["outcome"] == "failed"


def test_what_only_makes_the_data_may_be_missing_where_the_data_are_there(recorded, rerun):
    found = judged(recorded, rerun({"ingest/rows": None}))
    assert (found["outcome"], found["says"][:11]) == ("identical", "all 5 steps")


def test_without_data_nothing_is_excused(recorded, rerun):
    found = judged(recorded, rerun(dict.fromkeys(TITLES)))
    assert (found["outcome"], found["first"]) == ("failed", "ingest/rows")


def _version_of_data():
    """The record of a data set that is versioned with DVC and gone from the store."""
    import shutil

    from tasks.versioning import version_data

    dataset = versions.made()
    version_data.fn(dataset)
    manifest = steps.read_manifest(dataset.path)
    told = {"data": lineage._data(dataset), "steps": [lineage._step(manifest)]}
    shutil.rmtree(home() / "store")
    return json.loads(json.dumps(told))


def test_data_come_from_their_version_as_the_step_that_made_them(tmp_path):
    told = _version_of_data()
    assert reproduction.lay_data(told, tmp_path)
    (folder,) = (tmp_path / "store" / "data").glob("*")
    manifest = steps.read_manifest(folder)
    assert (manifest["key"], manifest["digest"]) == (told["data"]["key"], told["data"]["digest"])
    assert steps.folder_digest(steps.hash_files(folder)) == told["data"]["digest"]
    assert json.loads((folder / "text" / "train.jsonl").read_text()) == {"text": "one"}


def test_data_that_the_cache_lost_come_from_the_folder(tmp_path):
    told = _version_of_data()
    versions.object_of("text/train.jsonl").unlink()
    assert reproduction.lay_data(told, tmp_path)


def test_data_that_nothing_has_are_left_to_their_sources(tmp_path):
    import shutil

    told = _version_of_data()
    for folder in ("data", ".dvc/cache"):
        shutil.rmtree(project() / folder)
    assert not reproduction.lay_data(told, tmp_path)
    assert not (tmp_path / "store").exists()


def test_a_version_with_another_content_than_recorded_is_refused(tmp_path):
    told = _version_of_data()
    told["data"]["digest"] = "0" * 64
    with pytest.raises(DataVersionError, match=r"data/dataset: .* recorded is 0000000000000000; .*--rebuild-data"):
        reproduction.lay_data(told, tmp_path)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A git checkout of one file that both modules take for their own; the commit, and a function that commits."""
    root = tmp_path / "checkout"
    (root / "tasks").mkdir(parents=True)
    for module in (lineage, reproduction):
        monkeypatch.setattr(module, "ROOT", root)

    def commit(text):
        (root / "tasks" / "a.py").write_text(text)
        for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", text]):
            identity = ["-c", "user.name=Somebody", "-c", "user.email=s@example.org"]
            subprocess.run(["git", "-C", str(root), *identity, *words], check=True)
        return {"code": {"commit": lineage.head(), "dirty": False, "changed": []}}

    return commit


def test_the_recorded_commit_is_run_where_the_checkout_has_moved_on(checkout, tmp_path):
    first = checkout("one")
    with reproduction.checked_out(first, tmp_path, present=False) as place:
        assert place == reproduction.ROOT
    checkout("two")
    with reproduction.checked_out(first, tmp_path, present=False) as place:
        assert place != reproduction.ROOT
        assert (place / "tasks" / "a.py").read_text() == "one"
    assert not place.exists()
    with reproduction.checked_out(first, tmp_path, present=True) as place:
        assert place == reproduction.ROOT


def test_a_checkout_with_changes_is_not_the_recorded_commit(checkout, tmp_path):
    first = checkout("one")
    (reproduction.ROOT / "tasks" / "a.py").write_text("edited")
    with reproduction.checked_out(first, tmp_path, present=False) as place:
        assert (place / "tasks" / "a.py").read_text() == "one"


def test_code_that_no_commit_holds_is_refused_with_what_to_do(checkout, tmp_path):
    changed = checkout("one")["code"] | {"dirty": True, "changed": ["tasks/a.py"]}
    for code, message in (
        (changed, r"changes that no commit holds \(tasks/a.py\); .*--with-present-code"),
        (changed | {"commit": ""}, r"outside of git.*--with-present-code"),
        ({"commit": "0" * 40, "dirty": False, "changed": []}, r"commit 000000000000 cannot be checked out .*git fetch"),
    ):
        with (
            pytest.raises(RegistryError, match=message),
            reproduction.checked_out({"code": code}, tmp_path, present=False),
        ):
            pass


def test_the_run_has_nothing_of_the_callers_servers_and_stores(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    made = reproduction.environment(tmp_path / "code", tmp_path, "k")
    assert "elsewhere" not in json.dumps(made)
    assert made["EVERGREEN_DATA"] == "k"
    assert made["EVERGREEN_HOME"].startswith(str(tmp_path))
