import json
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks import mlflow_store, tracking
from tasks.errors import TrackingError
from tasks.settings import ROOT


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def places(home, openers, monkeypatch):
    """All tests of this file share a store."""
    monkeypatch.setenv("EVERGREEN_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def openers(home):
    """What two processes say that opened the fresh store at the same moment."""
    command = [sys.executable, "-c", "from tasks import tracking; print(tracking.experiment())"]
    environment = {"EVERGREEN_HOME": str(home), "MLFLOW_DISABLE_TELEMETRY": "true"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, env=environment, cwd=ROOT, **pipes) for _ in range(2)]
    return [process.communicate(timeout=120) for process in started]


def opened(key="k1", **more):
    return tracking.run(**{"stage": "sft", "name": "lora", "key": key, "params": {}, "tags": {}, **more})


def status(run_id):
    return tracking.client().get_run(run_id).info.status


def test_reading_an_empty_home_makes_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    assert tracking.latest_run("anything") is None
    assert not list(tmp_path.iterdir())


def test_a_run_records_recipe_summary_and_history(home, tmp_path):
    (tmp_path / "log").mkdir()
    lines = [{"step": n, "steps": 3, "loss": 4.0 - n, "note": "text"} for n in (1, 2, 3)]
    (tmp_path / "log" / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "log" / "curve.png").write_bytes(b"png")
    (tmp_path / "log" / "notes.txt").write_text("stays here")
    recipe = {"lora": {"rank": 8}, "template": "x" * 900, "odd{name}": 1}
    with opened(params=recipe, tags={"seed": "7"}) as run:
        run.log({"loss": 1.5, "splits": {"train": 3}, "good": True, "name": "text"}, tmp_path)
    found = tracking.client().get_run(run.id)
    assert found.info.run_name == "sft/lora"
    assert found.info.status == "FINISHED"
    assert found.data.tags["evergreen.key"] == "k1"
    assert found.data.tags["evergreen.stage"] == "sft"
    assert found.data.params == {"lora.rank": "8", "odd_name_": "1"}
    assert dict(found.data.metrics.items()) == {"loss": 1.5, "splits/train": 3.0, "history/loss": 1.0}
    assert [m.step for m in tracking.client().get_metric_history(run.id, "history/loss")] == [1, 2, 3]
    names = {a.path for a in tracking.client().list_artifacts(run.id)}
    assert names == {"recipe.json", "plots"}
    assert (home / "mlartifacts").is_dir()
    assert tracking.latest_run("k1") == run.id


@pytest.mark.parametrize(
    ("error", "state"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "FAILED")]
)
def test_a_run_that_raises_says_so(error, state):
    with pytest.raises(error), opened() as run:
        raise error
    assert status(run.id) == state


def test_a_run_left_running_by_a_killed_process_is_ended():
    client = tracking.client()
    tags = {"evergreen.key": "k2"}
    dead = client.create_run(tracking.experiment(), tags=tags).info.run_id
    other = client.create_run(tracking.experiment(), tags={"evergreen.key": "k3"}).info.run_id
    with opened(key="k2") as run:
        assert (status(dead), status(other), status(run.id)) == ("KILLED", "RUNNING", "RUNNING")


def test_parallel_threads_never_mix(tmp_path):
    gate = threading.Barrier(4)

    def work(number):
        with opened(key=f"thread-{number}", params={"number": number}) as run:
            gate.wait()
            run.log({"number": number}, tmp_path)
        return run.id

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(work, range(4)))
    data = [tracking.client().get_run(run).data for run in runs]
    assert [d.metrics["number"] for d in data] == [0, 1, 2, 3] == [int(d.params["number"]) for d in data]


def test_processes_may_open_a_fresh_store_together_and_quietly(openers):
    assert openers == [(f"{tracking.experiment()}\n", "")] * 2


def test_an_unreachable_server_is_named_at_once(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"http://127.0.0.1:9 .*correct MLFLOW_TRACKING_URI"), opened():
        pass


def test_an_unreadable_store_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    (tmp_path / "mlflow.db").write_text("this is no database, and that is " * 200)
    with pytest.raises(TrackingError, match=r"mlflow\.db"):
        tracking.client()


def test_a_deleted_experiment_is_named(monkeypatch):
    client, where = tracking.client(), tracking.experiment()
    client.delete_experiment(where)
    with pytest.raises(TrackingError, match=f"experiments restore --experiment-id {where}"):
        tracking.experiment()
    client.restore_experiment(where)


def test_loggers_are_as_they_were():
    with mlflow_store.quiet():
        assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.INFO)
    assert logging.getLogger("mlflow").level != logging.ERROR


def test_a_store_whose_making_was_killed_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    (tmp_path / "mlflow.db.new").write_bytes(b"SQLite format 3\x00 and then the power went")
    assert tracking.experiment()
    assert tracking.exists()
    assert not (tmp_path / "mlflow.db.new").exists()
