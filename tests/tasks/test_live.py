"""What a training writes is in MLflow while it runs, each number once: also when it is killed and goes on."""

import json
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from tasks import live, steps, tracking, workers
from tasks.artifacts import Checkpoint
from tasks.errors import TrainingInterruptedError

STEPS, SAVED, HELD = 9, 4, 6  # where it is killed, two steps after its checkpoint
TOKENS = 2 * 16


class Nothing(BaseModel):
    seed: int = 0


def train(folder: Path, go_on: Path) -> dict[str, Any]:
    """A Trainer of a tiny model that waits behind a step until the file `go_on` is there. Runs in a worker process."""
    import numpy as np
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from models.architectures import fresh_model
    from models.tokenizer import train_tokenizer
    from tasks import pace, samples, training

    class Hold(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            while state.global_step == HELD and not go_on.exists():
                time.sleep(0.05)

    tokenizer = train_tokenizer(["a river in France, a lake"] * 4, vocabulary=270, context=32)
    model = fresh_model(1, tokenizer, seed=1)
    ids = np.random.default_rng(0).integers(4, 270, (2 * STEPS, 16))
    rows = [{"input_ids": row.tolist(), "labels": row.tolist()} for row in ids]
    arguments = training.arguments(
        folder, seed=1, device="cpu", steps=STEPS, batch=2, learning_rate=1e-3, save_steps=SAVED, logging_steps=1,
        eval_strategy="steps", eval_steps=3,
    )  # fmt: skip
    trainer = Trainer(model, TrainingArguments(**arguments), train_dataset=rows, eval_dataset=rows[:2])
    documents = {"text": np.array([5, *range(9, 30), tokenizer.eos_token_id])}
    trainer.add_callback(samples.continuing(folder, tokenizer, documents, begin=tokenizer.bos_token_id, longest=16))
    trainer.add_callback(Hold())
    flops = pace.flops_per_token(model, inputs=16)
    figures = training.run(trainer, folder, tokens_per_step=TOKENS, flops_per_token=flops)
    trainer.evaluate()
    return {**figures, "flops": flops}


def trained(go_on: Path) -> Checkpoint:
    step = steps.Step(stage="live", name="one", recipe=Nothing())

    def build(folder: Path) -> dict[str, Any]:
        return workers.call(train, folder, go_on, threads=1, processes=1, label="live/one", log=folder / "log")

    return steps.materialise(step, Checkpoint, build, resumable=True)


class Seen(NamedTuple):
    """An MLflow run as it was read: its state, the steps of each metric of the history, the rows of the table."""

    id: str
    state: str
    steps: dict[str, list[int]]
    rows: list[dict[str, Any]]


def seen(run_id: str) -> Seen:
    store = tracking.client()
    run = store.get_run(run_id)
    names = [name for name in run.data.metrics if name.startswith("history/")]
    curves = {name: [each.step for each in store.get_metric_history(run_id, name)] for name in names}
    rows: list[dict[str, Any]] = []
    if live.TABLE in {each.path for each in store.list_artifacts(run_id)}:
        rows = store.load_table(run.info.experiment_id, live.TABLE, run_ids=[run_id]).to_dict("records")
    return Seen(run_id, run.info.status, curves, rows)


def wait_for(look: Callable[[], Any], met: Callable[[Any], bool]) -> Any:
    until = time.monotonic() + 240
    while not met(found := look()):
        assert time.monotonic() < until, f"after four minutes there is only {found}"
        time.sleep(0.3)
    return found


def newest(before: str) -> str:
    key = steps.Step(stage="live", name="one", recipe=Nothing()).key
    return wait_for(lambda: tracking.latest_run(key), lambda found: found not in (None, before))


def held(training: "Future[Checkpoint]", before: str = "") -> Seen:
    """The run when all was sent that its training wrote before it waited."""
    run_id = newest(before)

    def all_sent(run: Seen) -> bool:
        assert not training.done() or training.result()
        return HELD in run.steps.get("history/loss", ()) and {row["step"] for row in run.rows} >= {3, HELD}

    return wait_for(lambda: seen(run_id), all_sent)


class Story(NamedTuple):
    killed_while_running: Seen
    killed: Seen
    resumed_while_running: Seen
    resumed: Seen
    made: Checkpoint


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, shared_store: str) -> Iterator[Story]:
    """A training that is killed while it waits, started again, and let go."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as thread:
        patch.setenv("EVERGREEN_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", shared_store)
        patch.setattr(live, "EVERY", 0.2)
        workers.stop()
        first = thread.submit(trained, home / "go-on")
        running = held(first)
        (child,) = multiprocessing.active_children()
        os.kill(child.pid or 0, signal.SIGKILL)
        with pytest.raises(TrainingInterruptedError):
            first.result(timeout=60)
        second = thread.submit(trained, home / "go-on")
        again = held(second, before=running.id)
        (home / "go-on").touch()
        made = second.result(timeout=240)
        workers.stop()
        yield Story(running, seen(running.id), again, seen(again.id), made)


@pytest.fixture(autouse=True)
def _store(shared_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)


@pytest.mark.slow
def test_curves_and_samples_are_there_while_the_training_runs(story: Story) -> None:
    run = story.killed_while_running
    assert run.state == "RUNNING"
    for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu"):
        assert run.steps[f"history/{name}"] == list(range(1, HELD + 1)), name
    assert run.steps["history/eval_loss"] == [3, HELD]
    assert Counter(row["step"] for row in run.rows) == {3: 2, HELD: 2}
    assert story.killed.state == "FAILED"


@pytest.mark.slow
def test_a_resumed_training_has_all_of_its_curve_in_its_run_and_nothing_twice(story: Story) -> None:
    whole = list(range(1, STEPS + 1))
    assert story.resumed_while_running.state == "RUNNING"
    assert story.resumed_while_running.steps["history/loss"] == whole[:HELD]
    assert story.resumed.state == "FINISHED"
    assert story.made.summary["steps"] == STEPS
    twice = {name: steps_ for name, steps_ in story.resumed.steps.items() if len(set(steps_)) < len(steps_)}
    assert twice == {}
    for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu"):
        assert story.resumed.steps[f"history/{name}"] == whole, name
    assert not {"history/time", "history/seconds_left", "history/epoch"} & story.resumed.steps.keys()


@pytest.mark.slow
def test_what_mlflow_has_is_what_the_history_says(story: Story) -> None:
    entries = _lines(story.made.path / "log" / "history.jsonl")
    losses = {entry["step"]: entry for entry in entries if "loss" in entry}
    metrics = tracking.client().get_metric_history(story.resumed.id, "history/loss")
    assert {each.step: each.value for each in metrics} == {step: entry["loss"] for step, entry in losses.items()}
    assert [each.timestamp for each in metrics] == [round(1000 * losses[each.step]["time"]) for each in metrics]


@pytest.mark.slow
def test_the_table_holds_every_evaluation_once(story: Story) -> None:
    rows = [{name: row[name] for name in ("step", "prompt", "kind", "text")} for row in story.resumed.rows]
    assert rows == _lines(story.made.path / "log" / live.SAMPLES)
    assert Counter((row["step"], row["kind"]) for row in rows) == {
        (step, kind): 1 for step in (3, 6, 9) for kind in ("greedy", "temperature 0.8")
    }
    assert len({row["prompt"] for row in rows}) == 1


@pytest.mark.slow
def test_the_mfu_is_flops_by_tokens_per_second_of_the_peak(story: Story) -> None:
    execution = json.loads((story.made.path / "manifest.json").read_text())["execution"]
    entries = [entry for entry in _lines(story.made.path / "log" / "history.jsonl") if "mfu" in entry]
    assert len(entries) == STEPS
    peak, flops = execution["peak_flops_per_second"], story.made.summary["flops"]
    for entry in entries[SAVED:]:  # those of the process that measured this peak
        assert entry["mfu"] == pytest.approx(flops * entry["tokens_per_second"] / peak, abs=1e-4)
    assert execution["mfu"] == pytest.approx(flops * execution["tokens_per_second"] / peak, abs=1e-4)
    assert "mfu" not in story.made.summary, "a time would be part of what the step made"


def test_a_store_that_fails_is_said_once_and_catches_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = tracking.client()
    with _run("fails") as run, caplog.at_level(logging.WARNING, logger="evergreen.tracking"):
        report = live.follow(tmp_path)
        store.delete_run(run.id)  # a store that takes nothing
        for step in range(1, 4):
            _write(tmp_path / "history.jsonl", {"step": step, "loss": 4.0 / step})
            run.feed.due = 0.0
            report()
        assert len(caplog.messages) == 1 and "MLflow does not take the curves now" in caplog.messages[0]
        assert run.feed.pause == live.LONGEST_PAUSE or run.feed.pause == 8 * live.EVERY
        store.restore_run(run.id)
        report()
        assert seen(run.id).steps == {}, "it was asked again before the pause was over"
        run.feed.due = 0.0
        report()
        assert seen(run.id).steps == {"history/loss": [1, 2, 3]}
    assert seen(run.id).steps == {"history/loss": [1, 2, 3]}


def test_a_server_that_is_gone_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    feed = live.Feed("r1", tracking.client, "http://127.0.0.1:9")
    feed.follow(tmp_path)
    _write(tmp_path / "history.jsonl", {"step": 1, "loss": 4.0})
    started = time.monotonic()
    feed.try_to_send()
    assert time.monotonic() - started < 5, "MLflow's own client tries for minutes"
    assert "no MLflow server answers" in caplog.text


def test_the_curve_of_a_training_that_failed_is_kept(tmp_path: Path) -> None:
    def diverge() -> None:
        live.follow(tmp_path)
        _write(tmp_path / "history.jsonl", {"step": 1, "loss": 4.0})
        _write(tmp_path / "history.jsonl", {"step": 2, "loss": math.inf})
        raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"), _run("diverges") as run:
        diverge()
    assert seen(run.id)[1:] == ("FAILED", {"history/loss": [1]}, [])


def test_the_lines_of_an_earlier_training_wait_until_it_has_said_which_of_them_hold(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for step in (1, 2, 3):
        _write(path, {"step": step})
    tail = live.Tail(path)
    assert tail.read() == []
    (tmp_path / "new").write_text('{"step": 1}\n{"step": 2')
    (tmp_path / "new").replace(path)
    assert tail.read() == [{"step": 1}], "the second line is not whole yet"
    with path.open("a") as file:
        file.write('0}\ntorn{"step": 3}\n{"step": 30}\n')
    assert tail.read() == [{"step": 20}, {"step": 30}]
    assert tail.read() == []
    assert [each["step"] for each in live.Tail(path).read(all_of_it=True)] == [1, 20, 30]


def test_trainings_side_by_side_share_a_sqlite_store(tmp_path: Path) -> None:
    """Each in a thread of its own, as the runs of a sweep: what they send neither mixes nor gets lost."""
    gate = threading.Barrier(4)

    def train_one(number: int) -> str:
        folder = tmp_path / str(number)
        folder.mkdir()
        with _run(f"beside-{number}") as run:
            report = live.follow(folder)
            gate.wait()
            for step in range(20):
                _write(folder / "history.jsonl", {"step": step, "loss": float(number), "grad_norm": 1.0})
                run.feed.due = 0.0
                report()
            assert not run.feed.warned
        return run.id

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(train_one, range(4)))
    for number, run_id in enumerate(runs):
        metrics = tracking.client().get_metric_history(run_id, "history/loss")
        assert [(each.step, each.value) for each in metrics] == [(step, float(number)) for step in range(20)]


def test_outside_of_a_run_nothing_is_sent(tmp_path: Path) -> None:
    live.follow(tmp_path)()
    with _run("no-log") as run:
        live.follow(None)()
    assert seen(run.id).steps == {}


def _run(key: str) -> Any:
    return tracking.run(stage="live", name=key, key=key, params={}, tags={})


def _write(path: Path, entry: dict[str, float]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
