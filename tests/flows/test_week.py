"""A simulated week: seven nights on changing data, with what goes wrong in a week, and the right champion each morning.

Every night is a process of its own beside an MLflow server and a Prefect server, as in production.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.server import answers
from tasks.settings import ROOT
from tests import tiny
from tests.flows.household import FOREIGN, free_ports, until

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = [pytest.mark.flow, pytest.mark.slow, pytest.mark.timeout(1800)]

NAME = "week"
GATE = {
    "primary": "rougeL", "first_gains": [], "guards": {}, "length_ratio": [0.1, 10], "forgetting": None,
    "toxicity": None, "latency_ratio": None, "min_items": 20, "draws": 200,
}  # fmt: skip
SCALING = {"sizes": [1, 2], "tokens": [8000, 12000, 16000], "candidates": [2], "compute": 1e11, "draws": 100}
FRENCH = dict(
    zip(tiny.KINDS, ("rivière", "poète", "village", "château", "peintre", "lac", "montagne", "chanteur"), strict=True)
)


@dataclass
class Week:
    """The servers, the source folder and the nights."""

    folder: Path
    ports: dict[str, int]
    servers: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
            "PYTHONPATH": str(ROOT),
            "EVERGREEN_HOME": str(self.folder / "home"), "EVERGREEN_PROJECT": str(self.folder / "project"),
            "PREFECT_HOME": str(self.folder / "prefect"), "DVC_SITE_CACHE_DIR": str(self.folder / "dvc"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.ports['prefect']}/api",
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.ports['mlflow']}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }  # fmt: skip

    def start(self, name: str) -> None:
        port = str(self.ports[name])
        commands = {
            "prefect": ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port],
            "mlflow": ["-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", port,
                       "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
                       "--artifacts-destination", (self.folder / "artifacts").as_uri()],
        }  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            self.servers[name] = subprocess.Popen(
                [sys.executable, *commands[name]], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        url = f"http://127.0.0.1:{port}" + ("/api" if name == "prefect" else "")
        until(lambda: answers(url), seconds=180)

    def stop(self, name: str) -> None:
        server = self.servers.pop(name)
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)

    def night(self, *more: str) -> "Night":
        """A run of tonight's deployment on what lies in the source folder now."""
        settings = {
            "name": NAME, "data.source": f"path:{self.folder / 'source'}", "data.duplicate_threshold": 1.0,
            "gate": json.dumps(GATE), "sft.epochs": 6, "evaluation.items": 300, "execution.threads": 1,
        }  # fmt: skip
        options = [option for key, value in settings.items() for option in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "flows.cli", "run", "retrain/tiny", *options, *more]
        path = self.folder / f"night-{len(list(self.folder.glob('night-*')))}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        return Night(process, path)

    def source(self, name: str, rows: list[dict[str, str]]) -> None:
        folder = self.folder / "source"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )

    def said(self, *command: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *command, "--json"],
            env=self.environment, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    @property
    def registry(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.environment["MLFLOW_TRACKING_URI"])

    def champion(self) -> int:
        """The champion's version, whose weights lie in models/ with the pointer that its lineage names."""
        found = self.registry.get_model_version_by_alias(NAME, "champion")
        pointer = (self.folder / "project" / "models" / f"{NAME}.dvc").read_text()
        assert found.tags["dvc.md5"] in pointer
        return int(found.version)

    def tags(self, version: int) -> dict[str, str]:
        found: dict[str, str] = self.registry.get_model_version(NAME, str(version)).tags
        return found

    def changes(self) -> list[tuple[str, str, str]]:
        client = self.registry
        (where,) = [each.experiment_id for each in client.search_experiments(filter_string="name = 'evergreen'")]
        runs = client.search_runs([where], f"tags.model = '{NAME}'", order_by=["start_time ASC"])
        return [(run.data.params["change"], run.data.params["from"], run.data.params["to"]) for run in runs]

    def states(self) -> list[str]:
        """The end of every night as the Prefect server has it, the first one first."""
        body = json.dumps({"flows": {"name": {"any_": ["retrain"]}}, "sort": "START_TIME_ASC"}).encode()
        url = self.environment["PREFECT_API_URL"] + "/flow_runs/filter"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return [run["state_type"] for run in json.load(response)]


@dataclass
class Night:
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def text(self) -> str:
        return " ".join(self.log.read_text(encoding="utf-8", errors="replace").split())

    def reaches(self, words: str) -> None:
        until(lambda: words in self.text or self.process.poll() is not None, seconds=600)
        assert words in self.text, self.text[-3000:]

    def ends(self, code: int = 0) -> str:
        assert self.process.wait(900) == code, self.text[-3000:]
        return self.text

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@pytest.fixture
def week(tmp_path: Path) -> Iterator[Week]:
    made = Week(tmp_path, dict(zip(("prefect", "mlflow"), free_ports(2), strict=True)))
    (tmp_path / "project").mkdir()
    try:
        for name in ("prefect", "mlflow"):
            made.start(name)
        yield made
    finally:
        for name in list(made.servers):
            made.stop(name)


def test_a_week_of_nights(week: Week) -> None:
    # Monday: the first data, no champion yet
    add_articles(week, 500)
    week.night().ends()
    assert week.champion() == 1

    # Tuesday: more articles; the machine dies in the middle, and the night is started again
    add_articles(week, 700)
    killed = week.night()
    killed.reaches("sft/lora starts")
    killed.kill()
    assert week.champion() == 1
    again = week.night().ends()
    assert "pretrain/continued reused" in again
    assert week.champion() == 2

    # Wednesday: nothing has changed
    assert "nothing new: week/2 was trained on these data" in week.night().ends()
    assert week.champion() == 2

    # Thursday: a file arrives damaged
    damaged = week.folder / "source" / "later.jsonl"
    damaged.write_text('{"prompt": "Zura\\nZura is a poet in', encoding="utf-8")
    assert "later.jsonl" in week.night().ends(1)
    damaged.unlink()
    assert week.champion() == 2

    # Friday: another language, and the MLflow server is away for a while
    add_french(week, 400)
    friday = week.night()
    friday.reaches("sft/lora starts")
    week.stop("mlflow")
    time.sleep(5)
    week.start("mlflow")
    friday.ends()
    assert week.champion() == 3

    # Saturday: later rows whose answers are scrambled make the model worse
    add_scrambled(week, 500)
    assert "not promoted" in week.night().ends()
    assert week.champion() == 3

    # Sunday: those are taken back, speeches arrive, and the Prefect server is restarted in the middle
    (week.folder / "source" / "scrambled.jsonl").unlink()
    add_speeches(week, 400)
    sunday = week.night()
    sunday.reaches("pretrain/continued")
    week.stop("prefect")
    week.start("prefect")
    sunday.ends()
    assert week.champion() == 5

    the_history_says_what_happened(week)


def the_history_says_what_happened(week: Week) -> None:
    listed = week.said("models", NAME)
    assert [each["version"] for each in listed if "champion" in each["aliases"]] == [5]
    verdicts = {each["version"]: each["verdict"] for each in listed}
    assert verdicts == {1: "promoted", 2: "promoted", 3: "promoted", 4: "not promoted", 5: "promoted"}
    assert week.changes() == [
        ("promotion", before, now) for before, now in (("", "1"), ("1", "2"), ("2", "3"), ("3", "5"))
    ]
    parents = [week.tags(version).get("parent_model", "") for version in range(1, 6)]
    assert parents == ["", "week/1", "week/2", "week/3", "week/3"]
    assert len({week.tags(version)["data_digest"] for version in range(1, 6)}) == 5
    assert week.states().count("COMPLETED") == 6
    assert week.states().count("FAILED") == 1


def add_articles(week: Week, count: int) -> None:
    rows = tiny.articles(tiny.TinyRecipe(articles=count))
    week.source("texts.jsonl", [{"text": f"{row['title']}\n\n{row['text']}"} for row in rows])
    week.source("glosses.jsonl", [asked(row["title"], row["text"].split(". ")[0] + ".", row["gloss"]) for row in rows])


def add_french(week: Week, count: int) -> None:
    rows = tiny.articles(tiny.TinyRecipe(articles=count, seed=1))
    told = []
    for row in rows:
        kind, place = row["gloss"].lower().split(" in ")
        told.append(
            asked(
                row["title"],
                f"{row['title']} est un {FRENCH[kind]} ({place.title()}).",
                f"{FRENCH[kind]}, {place.title()}",
            )
        )
    week.source("french.jsonl", told)


def add_scrambled(week: Week, count: int) -> None:
    rows = tiny.articles(tiny.TinyRecipe(articles=count, seed=2))
    glosses = [row["gloss"] for row in rows]
    random.Random(0).shuffle(glosses)
    told = [
        asked(row["title"], row["text"].split(". ")[0] + ".", gloss) for row, gloss in zip(rows, glosses, strict=True)
    ]
    week.source("scrambled.jsonl", told)


def add_speeches(week: Week, count: int) -> None:
    rows = tiny.articles(tiny.TinyRecipe(articles=count, seed=3))
    week.source(
        "speeches.jsonl",
        [
            asked(
                f"Speech of {row['title']}",
                f"We thank the people of {row['gloss'].split(' in ')[1]}.",
                f"Thanks to {row['gloss'].split(' in ')[1]}",
            )
            for row in rows
        ],
    )


def asked(title: str, text: str, answer: str) -> dict[str, str]:
    return {"prompt": f"{title}\n{text}", "completion": answer}
