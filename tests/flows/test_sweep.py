"""The sweep as a flow: beside each other in processes or by a local Ray, the same steps with the same losses."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.plan import plan
from flows.scaling_laws import scaling_laws
from tasks import steps, tracking, workers
from tasks.artifacts import Forecast
from tasks.pretrain import PretrainRecipe
from tasks.scaling_laws import ScalingRecipe
from tasks.settings import Execution
from tests import tiny

pytestmark = [pytest.mark.flow, pytest.mark.slow, pytest.mark.timeout(600)]

RECIPE = ScalingRecipe(
    families=("llama", "lstm"), sizes=(1, 2), tokens=(2048, 4096, 8192), candidates=(2, 3), compute=1e10, draws=100
)
PRETRAIN = PretrainRecipe(context=32, batch=4, mixture={"encyclopaedia": 1.0}, validation_tokens=640)
POINTS = 12


@pytest.fixture(scope="module")
def made(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Forecast]]]:
    """The same sweep in a home of its own by each runner, and the forecast that it ended with."""
    homes = {runner: tmp_path_factory.mktemp(runner) for runner in ("threads", "ray")}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EVERGREEN_PROJECT", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield {runner: (home, _sweep(runner, home, patch)) for runner, home in homes.items()}
    workers.stop()


def _sweep(runner: str, home: Path, patch: pytest.MonkeyPatch) -> Forecast:
    patch.setenv("EVERGREEN_HOME", str(home))
    tiny.tokenizer(tiny.dataset())
    execution = Execution.model_validate(
        {**tiny.EXECUTION.model_dump(), "processes": 2, "threads": 2, "runner": runner}
    )
    forecast: Forecast = scaling_laws("latest", RECIPE, PRETRAIN, execution)
    return forecast


def _manifests(home: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in (home / "store" / "scaling").glob("*/manifest.json")]
    return {manifest["identity"]["name"]: manifest for manifest in found}


def test_ray_makes_the_same_steps_and_losses_as_processes(made: dict[str, tuple[Path, Forecast]]) -> None:
    threads, ray = (_manifests(made[runner][0]) for runner in ("threads", "ray"))
    assert len(threads) == POINTS + 1
    assert {name: each["key"] for name, each in threads.items()} == {name: each["key"] for name, each in ray.items()}
    assert {name: each["digest"] for name, each in threads.items()} == {
        name: each["digest"] for name, each in ray.items()
    }


def test_no_run_takes_more_threads_than_its_share(made: dict[str, tuple[Path, Forecast]]) -> None:
    for runner in made:
        points = {name: each for name, each in _manifests(made[runner][0]).items() if name != "fit"}
        assert {each["execution"]["threads"] for each in points.values()} == {1}
        assert len(points) == POINTS


def test_ray_is_gone_afterwards(made: dict[str, tuple[Path, Forecast]]) -> None:
    import ray

    assert not ray.is_initialized()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _is_child(path.parent)]
    assert not [command for command in commands if b"raylet" in command or command.startswith(b"ray::")]


def _is_child(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid())
    except OSError:
        return False


def test_the_plan_knows_every_step(made: dict[str, tuple[Path, Forecast]], monkeypatch: pytest.MonkeyPatch) -> None:
    home, _ = made["threads"]
    monkeypatch.setenv("EVERGREEN_HOME", str(home))
    planned = plan("scaling-laws", {"tokenizer": "latest", "recipe": RECIPE, "pretrain": PRETRAIN})["steps"]
    assert len(planned) == POINTS + 1
    assert [row["name"] for row in planned if not row["reused"]] == []
    assert planned[6]["name"] == "scaling/lstm-1x2048"


def test_each_family_has_a_law_and_they_are_compared(made: dict[str, tuple[Path, Forecast]]) -> None:
    _, forecast = made["threads"]
    fitted = json.loads((forecast.path / "fit.json").read_text())
    assert set(fitted["families"]) == {"llama", "lstm"} and fitted["family"] == "llama"
    assert {run["family"] for run in fitted["runs"]} == {"llama"}
    compared = fitted["comparison"]
    assert len(compared["pairs"]) == POINTS // 2
    for pair in compared["pairs"]:
        assert pair["difference"] == pytest.approx(pair["loss"]["lstm"] - pair["loss"]["llama"])
    assert compared["difference"]["low"] <= compared["difference"]["mean"] <= compared["difference"]["high"]
    for law in compared["at_budget"].values():
        assert law["low"] <= law["loss"] <= law["high"]


def test_mlflow_has_a_run_for_each_point_and_the_table_of_the_fit(
    made: dict[str, tuple[Path, Forecast]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home, forecast = made["ray"]
    monkeypatch.setenv("EVERGREEN_HOME", str(home))
    store = tracking.client()
    runs = store.search_runs([tracking.experiment()], "tags.`evergreen.stage` = 'scaling'")
    assert sorted(run.info.run_name.split("/")[1] for run in runs) == sorted(_manifests(home))
    assert {run.info.status for run in runs} == {"FINISHED"}
    fit = store.get_run(forecast.run_id)
    keys = [each["key"] for name, each in _manifests(home).items() if name != "fit"]
    assert sorted(json.loads(fit.data.tags["evergreen.inputs"]).values()) == sorted(keys)
    assert fit.data.tags["evergreen.inputs_digest"]
    assert {"E", "A", "B", "alpha", "beta", "low", "high"} <= set(fit.data.metrics)
    table = Path(store.download_artifacts(forecast.run_id, "runs.csv", str(tmp_path)))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert list(rows[0]) == ["run", "family", "size", "N", "N_non_embedding", "D", "C", "loss"]
    assert len({row["run"] for row in rows}) == POINTS
    assert {"intervals/alpha/low", "intervals/optimum.N/high", "condition", "noise"} <= set(fit.data.metrics)
    pictures = {file.path for file in store.list_artifacts(forecast.run_id, "plots")}
    assert {"plots/llama-forecast.png", "plots/lstm-loss-by-compute.png"} < pictures and len(pictures) == 8
    assert table.read_text() == (forecast.path / "runs.csv").read_text()
    assert store.download_artifacts(forecast.run_id, "fit.json", str(tmp_path))


def test_a_second_sweep_trains_nothing(made: dict[str, tuple[Path, Forecast]], monkeypatch: pytest.MonkeyPatch) -> None:
    home, forecast = made["threads"]
    monkeypatch.setenv("EVERGREEN_HOME", str(home))
    again = scaling_laws("latest", RECIPE, PRETRAIN, tiny.EXECUTION)
    assert again.reused and again.key == forecast.key
    assert len(steps.finished("scaling")) == POINTS + 1
