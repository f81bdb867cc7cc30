"""What a sweep will train is planned and checked before anything is; each family learns and is compared."""

import csv
import socket
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.lifecycle import lifecycle
from models.architectures import shape_of
from models.costs import flops_per_token
from tasks import cluster, sweep_fit
from tasks.errors import UsageError
from tasks.pretrain import PretrainRecipe
from tasks.scaling_laws import ScalingRecipe, fit_step, point_steps, points
from tasks.settings import Execution

BASE = PretrainRecipe()
BATCH = BASE.batch * BASE.context
ISOFLOP: dict[str, Any] = {"design": "isoflop", "sizes": (1, 2, 3), "budgets": (1e11, 2e11)}


def test_a_grid_names_its_steps_by_size_and_tokens() -> None:
    named = [step.name for step in point_steps(ScalingRecipe(), BASE, "t", 4096)]
    assert named[:4] == ["2x40000", "2x80000", "2x160000", "3x40000"] and len(named) == 9


def test_the_lstm_comes_after_the_decoder_and_says_so_in_the_name() -> None:
    steps = point_steps(ScalingRecipe(families=("llama", "lstm")), BASE, "t", 4096)
    assert [step.name for step in steps[8:10]] == ["4x160000", "lstm-2x40000"]
    assert len({step.key for step in steps}) == 18


def test_an_isoflop_run_spends_its_budget_to_within_a_batch() -> None:
    planned = points(ScalingRecipe(**ISOFLOP), BASE, 4096)
    assert len(planned) == 6
    for point, budget in zip(planned, (1e11, 2e11) * 3, strict=True):
        each = flops_per_token(shape_of(point.size), 4096, BASE.context)
        assert point.tokens % BATCH == 0
        assert point.flops == point.tokens * each
        assert 0 <= budget - point.flops < each * BATCH


def test_a_sweep_above_its_cap_is_refused_with_both_numbers() -> None:
    cost = sum(point.flops for point in points(ScalingRecipe(), BASE, 4096))
    points(ScalingRecipe(most=cost), BASE, 4096)
    with pytest.raises(UsageError, match=r"9 runs take \S+e\+12 training FLOPs, and `most` allows 1e\+11: .*4x160000"):
        points(ScalingRecipe(most=1e11), BASE, 4096)


def test_a_run_shorter_than_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match=r"size 2 \(llama\) with 500 of `tokens` trains 500 tokens, .*holds 1,024"):
        points(ScalingRecipe(tokens=(500, 4000)), BASE, 4096)
    with pytest.raises(UsageError, match=r"size 3 \(llama\) with 1e\+09 of `budgets` trains 2\d\d tokens"):
        points(ScalingRecipe(design="isoflop", sizes=(3, 2, 1), budgets=(1e9, 1e11)), BASE, 4096)


def test_the_main_family_must_be_in_the_sweep() -> None:
    with pytest.raises(UsageError, match=r"pretrain\.family is lstm, and the sweep trains llama: .*families=\[lstm\]"):
        points(ScalingRecipe(), BASE.model_copy(update={"family": "lstm"}), 4096)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizes": (2, 3, 3)}, "sizes names 3 2 times"),
        ({"families": ("llama", "llama")}, "families names llama 2 times"),
        ({"families": ()}, "families names none"),
        ({"families": ("llama", "gpt2", "lstm")}, "families names 3, and a sweep compares two at most"),
        ({"families": ("gru",)}, "families"),
        ({"families": ("llama", "bert")}, r"llama, bert learn different things \(causal, masked\)"),
        ({"sizes": (0, 2, 3)}, "sizes"),
        ({"tokens": (-5, 10_000)}, "tokens holds -5"),
        ({"sizes": (2,), "tokens": (1000, 2000, 3000, 4000, 5000)}, "sizes has one value, 2"),
        ({"design": "isoflop"}, "sizes and budgets give 0 runs, the law has 5 coefficients"),
        ({**ISOFLOP, "budgets": (1e11, 1e11)}, "budgets names"),
        ({**ISOFLOP, "sizes": (1, 2, 3, 4, 5), "budgets": (1e11,)}, "budgets has one value"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ScalingRecipe(**changes)


def test_the_cap_decides_no_result() -> None:
    one, other = (fit_step(ScalingRecipe(most=most), BASE, ["a"]).key for most in (0.0, 1e15))
    assert one == other


def test_an_address_needs_ray_and_ray_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="set runner to ray as well"):
        Execution(ray_address="ray://head:10001")
    monkeypatch.setitem(__import__("sys").modules, "prefect_ray", None)
    monkeypatch.setattr(cluster, "LOOPBACK", {})
    with pytest.raises(UsageError, match=r"pip install 'evergreen\[ray\]'"):
        cluster.runner(Execution(runner="ray"))


@pytest.mark.parametrize("address", ["ray://127.0.0.1:9", "127.0.0.1:9", "nonsense", "ray://127.0.0.1:many"])
def test_a_cluster_that_does_not_answer_is_named_at_once(address: str) -> None:
    with pytest.raises(UsageError, match=f"no Ray cluster answers at execution.ray_address {address}"):
        cluster.runner(Execution(runner="ray", ray_address=address))


def test_a_cluster_is_told_where_the_home_is(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"ray://127.0.0.1:{head.getsockname()[1]}"
        given = cluster.runner(Execution(runner="ray", ray_address=address))
    variables = given.init_kwargs["runtime_env"]["env_vars"]
    assert given.address == address
    assert variables["EVERGREEN_HOME"] == str(tmp_path / "home")
    assert variables["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_life_cycle_of_an_lstm_is_refused_before_it_starts() -> None:
    with pytest.raises(UsageError, match="family is lstm, which is for sweeps"):
        lifecycle.fn(pretrain=PretrainRecipe(family="lstm"))


@pytest.mark.slow
def test_families_are_compared_pair_by_pair_and_at_the_budget(tmp_path: Path) -> None:
    recipe = ScalingRecipe(families=("llama", "lstm"), compute=1e12, draws=100)
    runs = [
        sweep_fit.record(
            {
                "family": point.family, "size": point.size, "tokens": point.tokens, "parameters": 10**5 * point.size,
                "non_embedding": 10**4 * point.size,
                "loss": 2 + 40 / point.size**0.5 / point.tokens**0.3 + (0.1 if point.family == "lstm" else 0),
            },
            4096, 128,
        )
        for point in points(recipe, BASE, 4096)
    ]  # fmt: skip
    asked = sweep_fit.Question(recipe.candidates, recipe.compute, recipe.draws, 4096, 128, 256)
    fitted = sweep_fit.fit_families(runs, asked, main="llama", pictures=tmp_path / "both")
    assert fitted["comparison"]["difference"]["mean"] == pytest.approx(0.1)
    assert len(fitted["comparison"]["pairs"]) == 9
    assert fitted["comparison"]["at_budget"]["lstm"]["loss"] > fitted["comparison"]["at_budget"]["llama"]["loss"]
    alone = sweep_fit.fit_families(runs[:9], asked, main="llama", pictures=tmp_path / "alone")
    assert alone["forecast"] == fitted["forecast"] and "families" not in alone
    assert {*alone["coefficients"], "optimum.N"} < alone["intervals"].keys()
    assert all(low <= alone["coefficients"][name] <= high for name, (low, high) in alone["intervals"].items()
               if name in alone["coefficients"])  # fmt: skip
    assert alone["forecast"]["beyond"]["C"] > 1 and alone["diagnostics"]["condition"] > 1
    pictures = {"residuals.png", "loss-by-compute.png", "equal-losses.png", "forecast.png"}
    assert {path.name for path in (tmp_path / "alone").iterdir()} == pictures
    both = {path.name for path in (tmp_path / "both").iterdir()}
    assert both == {f"{family}-{name}" for family in ("llama", "lstm") for name in pictures}
    assert sweep_fit.summarised(fitted, runs)["families"].keys() == {"lstm"}
    sweep_fit.write_runs(tmp_path / "runs.csv", runs)
    rows = list(csv.DictReader((tmp_path / "runs.csv").read_text().splitlines()))
    assert list(rows[0]) == list(sweep_fit.COLUMNS) and len(rows) == 18
    assert float(rows[-1]["loss"]) == runs[-1]["loss"] and float(rows[-1]["C"]) == runs[-1]["C"]
