"""The pages of a run: what they say, that they lead to MLflow, and that none of them can stop a run."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tasks import mlflow_store, pages, progress, tracking
from tasks.artifacts import Artifact, Checkpoint, Forecast, RegisteredModel

COMMON = {"key": "k" * 16, "digest": "d" * 64, "path": Path("/store/x"), "run_id": "r1"}
LAW = {"E": 1.5, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
FIT = {"size": 4, "parameters": 1_234_567, "tokens": 98_765, "compute": 3.6e12, "loss": 4.42, "low": 4.27, "high": 4.87}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The pages by key, instead of a Prefect server."""
    made: dict[str, str] = {}
    monkeypatch.setattr(progress, "publish", lambda key, markdown, description: made.update({key: markdown}))
    return made


@pytest.fixture
def linked(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(tracking, "run_url", lambda run_id: f"http://mlflow/#/experiments/1/runs/{run_id}")
    return "(http://mlflow/#/experiments/1/runs/r1)"


def test_a_step_shows_figures_origin_and_its_mlflow_run(shown: dict[str, str], linked: str) -> None:
    made = Checkpoint(stage="sft", name="lora", summary={"loss": 3.0132, "tokens": {"train|x": 12345}}, **COMMON)
    pages.show_step(made)
    text = shown["step-sft/lora"]
    assert linked in text
    assert "| loss | 3.013 |" in text and "| tokens/train_x | 12,345 |" in text
    assert "computed by this run" in text and "/store/x" in text
    pages.show_step(made.model_copy(update={"reused": True, "summary": {}}))
    assert "reused" in shown["step-sft/lora"] and "| figure" not in shown["step-sft/lora"]


def test_without_a_server_there_is_no_link(shown: dict[str, str]) -> None:
    pages.show_step(Artifact(stage="a", name="b", **COMMON))
    assert "MLflow" not in shown["step-a/b"]


def test_a_step_shows_its_samples_first_and_last(shown: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    rows = [
        {"step": step, "prompt": "A <river>", "kind": "greedy", "text": f"[in|of]\nrow {step}"} for step in (1, 2, 3)
    ]
    (tmp_path / "log" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pages.show_step(Checkpoint(stage="pretrain", name="main", **{**COMMON, "path": tmp_path}))
    text = shown["step-pretrain/main"]
    assert "| 1 | greedy | A &lt;river&gt; | [in&#124;of] row 1 |" in text and "row 3" in text
    assert "row 2" not in text


def test_a_forecast_shows_loss_with_interval_size_and_tokens(shown: dict[str, str], linked: str) -> None:
    pages.show_forecast(Forecast(stage="scaling", name="fit", summary={**FIT, **LAW}, **COMMON))
    text = shown["forecast"]
    for each in (
        "4.420 [4.270, 4.870]",
        "| 4 |",
        "1,234,567",
        "98,765",
        "3.6e+12",
        "L = 1.500 + 400 / N^0.340",
        linked,
    ):
        assert each in text


def test_a_forecast_shows_how_sure_it_is_and_what_it_warns_of(shown: dict[str, str], tmp_path: Path) -> None:
    law = {
        "coefficients": {"E": 1.5, "A": 400.0}, "intervals": {"E": [0.9, 1.9], "A": [12.0, None]},
        "forecast": {"beyond": {"N": 1.0, "C": 3.9021}}, "warnings": ["alpha = 0.3 +- 0.2 is <weakly> determined"],
    }  # fmt: skip
    (tmp_path / "fit.json").write_text(json.dumps(law))
    pages.show_forecast(Forecast(stage="scaling", name="fit", summary={**FIT, **LAW}, **{**COMMON, "path": tmp_path}))
    text = shown["forecast"]
    assert "| E | 1.5 [0.9, 1.9] |" in text and "| A | 400 [12, no limit] |" in text
    assert "| C, times the largest run's | 3.9 |" in text
    assert "- the fit warns: alpha = 0.3 +- 0.2 is &lt;weakly&gt; determined" in text


@pytest.mark.parametrize(("inside", "said"), [(True, "4.404, inside the interval"), (False, "OUTSIDE the interval")])
def test_pre_training_shows_forecast_against_actual(inside: bool, said: str, shown: dict[str, str]) -> None:
    scored = {"loss": 4.42, "low": 4.27, "high": 4.87, "error": -0.016, "inside": inside}
    summary = {"loss": 4.404, "forecast": scored, "unigram": 6.45, "bigram": 4.62}
    pages.show_scored(Checkpoint(stage="pretrain", name="main", summary=summary, **COMMON))
    text = shown["forecast-against-actual"]
    assert said in text and "-0.016" in text and "| bigram | 4.620 |" in text


def test_a_run_that_was_not_forecast_shows_none(shown: dict[str, str]) -> None:
    pages.show_scored(Checkpoint(stage="pretrain", name="main", summary={"loss": 4.4}, **COMMON))
    assert shown == {}


def test_a_version_shows_the_verdict_and_its_reasons(shown: dict[str, str]) -> None:
    summary = {"version": "3", "verdict": "not promoted", "reasons": ["loss: worse <by> 0.1"]}
    pages.show_version(RegisteredModel(stage="registry", name="finder", summary=summary, **COMMON))
    assert shown["version-finder"].startswith("# finder version 3: not promoted\n\n- loss: worse &lt;by&gt; 0.1")


def test_a_validation_says_where_its_pages_lie(shown: dict[str, str], tmp_path: Path) -> None:
    docs = tmp_path / "log" / "data-docs"
    docs.mkdir(parents=True)
    (docs / "text.html").write_text("")
    pages.show_validation(Artifact(stage="validate", name="rows", **{**COMMON, "path": tmp_path}), "# Findings\n")
    text = shown["validation"]
    assert text.startswith("# Findings\n")
    assert str(docs / "text.html") in text and str(tmp_path / "validation.html") in text


def test_keys_are_what_prefect_takes() -> None:
    assert progress.artifact_key("step-Scaling/2x160000 é_x ") == "step-scaling-2x160000---x"


def test_a_page_that_prefect_refuses_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from prefect import artifacts
    from prefect.context import TaskRunContext

    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("the server is gone\nand more")

    monkeypatch.setattr(artifacts, "create_markdown_artifact", refuse)
    with TaskRunContext.model_construct():
        progress.publish("x", "text", "about x")
    assert caplog.messages == ["the page 'x' cannot be shown in Prefect: the server is gone"]


def test_a_file_has_no_address() -> None:
    assert tracking.run_url("r1") == ""


def test_a_server_that_is_gone_costs_a_link_and_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert tracking.run_url("r1") == ""


def test_the_link_leads_to_the_run_and_is_asked_for_once(
    monkeypatch: pytest.MonkeyPatch, mlflow_like: HTTPServer
) -> None:
    address = f"http://127.0.0.1:{mlflow_like.server_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address + "/")
    assert tracking.run_url("r1") == f"{address}/#/experiments/7/runs/r1"
    mlflow_like.shutdown()
    assert tracking.run_url("r2") == f"{address}/#/experiments/7/runs/r2"
    assert tracking.run_url("") == ""


@pytest.fixture
def mlflow_like() -> Iterator[HTTPServer]:
    """Answers as MLflow does to the question for our experiment; a real server would take half a minute to start."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"experiment": {"experiment_id": "7", "name": "evergreen", "lifecycle_stage": "active"}}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    tracking._experiments.pop(f"http://127.0.0.1:{server.server_port}", None)
    mlflow_store._ready.discard(f"http://127.0.0.1:{server.server_port}/")
