"""`evergreen fit` as a user meets it: from a table of runs to coefficients, intervals, plans and pictures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import cli, fit_table
from models.compute_optimal import optimum
from models.laws import LAWS
from tasks.settings import ROOT

TRUE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
FAST = ("--bootstrap", "300")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six budgets of ten sizes, with the noise of seeds, under names and units that people use."""
    rng = np.random.default_rng(3)
    lines = ["Model Size,Training Tokens (B),val_loss"]
    for compute in np.geomspace(1e19, 3e21, 6):
        for n in 0.1 * (compute / 6) ** 0.49 * np.geomspace(1 / 6, 6, 10):
            d = compute / (6 * n)
            loss = TRUE["E"] + TRUE["A"] * n ** -TRUE["alpha"] + TRUE["B"] * d ** -TRUE["beta"]
            lines.append(f"{n:.0f},{d / 1e9:.6g},{loss * np.exp(0.003 * rng.standard_normal()):.5f}")
    path = tmp_path_factory.mktemp("runs") / "runs.csv"
    path.write_text("\n".join(lines))
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.main(["fit", *arguments, "--json"]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(capsys.readouterr().out, parse_constant=refuse)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["fit", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return " ".join(shown.err.split())


def test_the_document(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, table, *FAST, "--compute", "5.76e23")
    assert {
        "law", "estimator", "n", "coefficients", "objective", "intervals", "profile_intervals", "starts",
        "starts_at_optimum", "seconds", "warnings", "notes", "convention", "diagnostics", "optimum",
    } <= found.keys()  # fmt: skip
    assert (found["law"], found["n"]) == ("chinchilla", 60)
    assert "delta = 0.001" in found["estimator"]
    for name, true in TRUE.items():
        for low, high in (found["intervals"][name], found["profile_intervals"][name]):
            assert low < found["coefficients"][name] < high
        assert found["coefficients"][name] == pytest.approx(true, rel=0.5)
    for name in ("N", "D", "tokens_per_parameter", "loss"):
        figure = found["optimum"][name]
        assert figure["low"] < figure["value"] < figure["high"]
        assert found["intervals"][f"optimum.{name}"] == [figure["low"], figure["high"]]
    n, d = (found["optimum"][name]["value"] for name in "ND")
    assert 6 * n * d == pytest.approx(5.76e23)
    assert found["optimum"]["beyond_the_runs"] == pytest.approx(192, rel=0.01)
    assert "'Model Size'" in found["convention"]
    assert any("Training Tokens (B)" in note for note in found["notes"])


def test_the_same_seed_gives_the_same_document(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = (said(capsys, table, *FAST, "--seed", seed) for seed in ("1", "1", "2"))
    assert first["intervals"] == second["intervals"] != third["intervals"]
    assert first["coefficients"] == third["coefficients"]


def test_the_table_has_at_most_80_columns(table: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = (
        "--compute", "5.76e23", "--target-loss", "2.1", "--inference-tokens", "2T", "--unique-tokens", "200B",
        "--predict", "N=70B,D=1.4T", "--plots", "pictures",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert cli.main(["fit", table, *FAST, *asked]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert all(
        part in shown
        for part in ("Hoffmann et al. 2022", "95% by profile", "for 5.76e+23 FLOPs", "the cheapest with a loss of 2.1",
                     "with 2 T tokens to serve", "with 200 B unique tokens", "a run with N = 70 B, D = 1.4 T",
                     "192 times the largest run's FLOPs", "200 B")
    )  # fmt: skip
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "residuals.png", "loss-by-compute.png", "equal-losses.png", "forecast.png",
    }  # fmt: skip


def test_plans_by_hours_and_money(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    hours = said(capsys, table, *FAST, "--gpu-hours", "1000", "--peak", "1e15", "--utilisation", "0.4")
    money = said(capsys, table, *FAST, "--money", "2000", "--price", "2", "--peak", "1e15", "--utilisation", "0.4")
    assert hours["optimum"]["C"] == pytest.approx(1000 * 3600 * 0.4e15)
    assert money["optimum"]["C"] == pytest.approx(hours["optimum"]["C"])
    assert money["optimum"]["gpu_hours"] == pytest.approx(1000)
    assert money["optimum"]["money"] == pytest.approx(2000)


def test_what_the_plans_answer(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, table, *FAST, "--target-loss", "2.1", "--inference-tokens", "10T", "--predict", "N=7e9,D=2T")
    cheapest, served = found["cheapest"], found["with_inference"]
    assert served["N"]["value"] < cheapest["N"]["value"]
    assert served["D"]["value"] > cheapest["D"]["value"]
    assert served["training_C"]["value"] > cheapest["C"]["value"]
    [point] = found["predictions"]
    assert point["loss"]["low"] < point["loss"]["value"] < point["loss"]["high"]
    assert point["one_run"]["low"] < point["loss"]["low"]
    short = said(capsys, table, *FAST, "--compute", "1e23", "--unique-tokens", "50B")["with_unique_data"]
    assert short["epochs"]["value"] > 1
    assert short["loss_unlimited"]["value"] < short["loss"]["value"] < short["loss_one_epoch"]["value"]


def test_isoflop_parabolas(table: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = said(capsys, table, *FAST, "--law", "isoflop", "--compute", "5.76e23", "--plots", str(tmp_path))
    assert (found["law"], found["n"], found["starts"], len(found["points"])) == ("isoflop", 60, None, 6)
    assert set(found["coefficients"]) == {"a", "b", "k_N", "k_D"} and "parabola" in found["estimator"]
    assert found["coefficients"]["a"] + found["coefficients"]["b"] == pytest.approx(1)
    for name in ("N", "D", "tokens_per_parameter", "loss"):
        figure = found["optimum"][name]
        assert figure["low"] < figure["value"] < figure["high"]
        assert found["intervals"][f"optimum.{name}"] == [figure["low"], figure["high"]]
    true = optimum(TRUE, compute=5.76e23)
    corrected = found["optimum"]["N"]["value"] / found["bias"]["N"]
    assert corrected == pytest.approx(true["N"], rel=0.4)
    assert found["optimum"]["loss"]["low"] < true["loss"] < found["optimum"]["loss"]["high"]
    assert any("a loss is no parabola" in note for note in found["notes"])
    assert found["plots"] == [str(tmp_path / "loss-by-compute.png")] and Path(found["plots"][0]).exists()
    assert cli.main(["fit", table, *FAST, "--law", "isoflop", "--compute", "5.76e23"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_the_envelope_of_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["id,which,params,tokens,loss"]
    for n in np.geomspace(1e7, 1e10, 12):
        for d in np.geomspace(1e9, 1e12, 25):
            loss = TRUE["E"] + TRUE["A"] * n ** -TRUE["alpha"] + TRUE["B"] * d ** -TRUE["beta"]
            lines.append(f"{len(lines)},m{n:.0f},{n:.0f},{d:.0f},{loss:.6f}")
    path = tmp_path / "curves.csv"
    path.write_text("\n".join(lines))
    found = said(capsys, str(path), *FAST, "--law", "envelope", "--column", "run=which", "--compute", "1e22")
    assert found["coefficients"]["a"] == pytest.approx(TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"]), abs=0.03)
    assert found["optimum"]["N"]["value"] == pytest.approx(optimum(TRUE, compute=1e22)["N"], rel=0.3)
    assert found["optimum"]["loss"]["value"] == pytest.approx(optimum(TRUE, compute=1e22)["loss"], rel=0.01)
    assert found["optimum"]["loss"]["low"] is None
    assert "each of the 300 rows is a run of its own" in refused(capsys, str(path), "--law", "envelope")
    path.write_text("\n".join([*lines, lines[-1].replace("300,", "301,", 1).replace(lines[-1][-8:], "2.500000")]))
    message = refused(capsys, str(path), "--law", "envelope", "--column", "run=which")
    assert "line 302 (m10000000000) is at the same" in message and "line 301" in message


@pytest.mark.slow
def test_runs_of_one_ratio_say_nothing_of_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = np.geomspace(1e7, 3e9, 20)
    lines = [f"{n:.0f},{20 * n:.0f},{1.7 + 400 / n**0.34 + 400 / (20 * n) ** 0.28:.5f}" for n in sizes]
    (tmp_path / "runs.csv").write_text("\n".join(["N,D,loss", *lines]))
    found = said(capsys, str(tmp_path / "runs.csv"), *FAST)
    assert "exponents" not in found and any("same tokens per parameter" in each for each in found["warnings"])
    message = refused(capsys, str(tmp_path / "runs.csv"), "--compute", "1e22")
    assert "all runs have 20 tokens per parameter" in message and "--law compute" in message
    found = said(capsys, str(tmp_path / "runs.csv"), *FAST, "--law", "compute", "--compute", "1e22")
    true = 1.7 + 400 / (1e22 / 120) ** 0.17 + 400 / (20e22 / 6) ** 0.14
    assert found["optimum"]["loss"]["value"] == pytest.approx(true, rel=0.01)


def test_rows_of_training_curves_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["model,params,tokens,loss"]
    for n in np.geomspace(1e7, 1e10, 5):
        for d in np.geomspace(1e9, 1e12, 6):
            loss = TRUE["E"] + TRUE["A"] * n ** -TRUE["alpha"] + TRUE["B"] * d ** -TRUE["beta"]
            lines.append(f"m{n:.0f},{n:.0f},{d:.0f},{loss:.4f}")
    (tmp_path / "runs.csv").write_text("\n".join(lines))
    found = said(capsys, str(tmp_path / "runs.csv"), *FAST)
    assert any(each.startswith("30 rows are of 5 runs by their names") for each in found["warnings"])
    found = said(capsys, str(tmp_path / "runs.csv"), *FAST, "--law", "envelope")
    assert not any("by their names" in each for each in found["warnings"])


def test_a_deciding_run_is_called_by_its_line_and_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["name,N,D,loss"]
    for place, (n, d) in enumerate((n, d) for n in (1e8, 4e8, 16e8) for d in (2e9, 8e9, 32e9)):
        loss = TRUE["E"] + TRUE["A"] * n ** -TRUE["alpha"] + TRUE["B"] * d ** -TRUE["beta"]
        lines.append(f"small-{place},{n:.0f},{d:.0f},{loss * (1.2 if place == 5 else 1):.5f}")
    (tmp_path / "runs.csv").write_text("\n".join(lines))
    found = said(capsys, str(tmp_path / "runs.csv"), *FAST, "--estimator", "least-squares")
    assert found["diagnostics"]["influence"][0]["name"] == "line 7 (small-5)"
    assert any(each.startswith("line 7 (small-5) decides the fit") for each in found["warnings"])


def test_the_law_that_forecasts_best(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, table, *FAST, "--law", "best")
    assert found["law"] == found["comparison"][0]["law"]
    errors = [each["error"] for each in found["comparison"] if "error" in each]
    assert errors == sorted(errors) and len(errors) >= 5
    assert {"runs_below", "runs_above", "error_within"} <= found["comparison"][0].keys()


@pytest.mark.slow
@pytest.mark.parametrize("law", ["kaplan-nd", "over-training", "compute", "kaplan-c"])
def test_other_laws_with_pictures(law: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, table, *FAST, "--law", law, "--plots", str(tmp_path))
    assert set(found["coefficients"]) == set(LAWS[law].symbols)
    assert len(found["plots"]) == 4
    assert all(Path(path).stat().st_size > 10_000 for path in found["plots"])


def test_a_law_of_compute_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compute = np.geomspace(1e18, 1e21, 12)
    lines = [f"{c / 8.64e19:.6g};{str(1.7 + 2e3 * c**-0.16).replace('.', ',')}" for c in compute]
    (tmp_path / "runs.csv").write_text("\n".join(["Compute (PF-days);loss", *lines]))
    found = said(capsys, str(tmp_path / "runs.csv"), *FAST, "--law", "compute", "--compute", "1 PF-days")
    assert found["coefficients"]["E"] == pytest.approx(1.7, rel=1e-3)
    assert found["optimum"]["loss"]["value"] == pytest.approx(1.7 + 2e3 * 8.64e19**-0.16, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["lad", "least-squares", "quantile"])
def test_other_estimators(estimator: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, table, *FAST, "--estimator", estimator)
    assert found["coefficients"]["alpha"] == pytest.approx(TRUE["alpha"], rel=0.3)
    assert found["estimator"] != said(capsys, table, *FAST)["estimator"]


def test_rows_that_cannot_be_used(table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.csv").write_text(Path(table).read_text() + "\n1e9,20,nan\n")
    message = refused(capsys, str(tmp_path / "runs.csv"))
    assert "line 62: 'val_loss' is 'nan'" in message and "--drop-invalid" in message
    found = said(capsys, str(tmp_path / "runs.csv"), *FAST, "--drop-invalid")
    assert found["n"] == 60
    assert found["dropped"] == ["line 62: 'val_loss' is 'nan', which is not finite"]


def test_the_words_about_columns_reach_the_table(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(table).read_text().replace("Model Size", "w").replace("Training Tokens (B)", "seen")
    (tmp_path / "runs.csv").write_text(text)
    words = ("--column", "n=w", "--column", "D=seen", "--unit", "D=B")
    assert said(capsys, str(tmp_path / "runs.csv"), *FAST, *words)["coefficients"] == pytest.approx(
        said(capsys, table, *FAST)["coefficients"]
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--compute", "1e21", "--money", "5"), ("--compute and --money", "one of them")),
        (("--money", "5"), ("--price and --peak and --utilisation",)),
        (("--law", "nope"), ("'nope'", "chinchilla", "--law best")),
        (("--law", "data-constrained"), ("unique_tokens",)),
        (("--law", "kaplan-nd", "--compute", "1e21"), ("kaplan-nd", "--law chinchilla")),
        (("--target-loss", "1"), ("floor",)),
        (("--law", "isoflop", "--target-loss", "2"), ("--target-loss", "--law chinchilla")),
        (("--law", "isoflop", "--estimator", "lad", "--prior"), ("--estimator and --prior", "leave them out")),
        (("--law", "isoflop", "--compute", "0.001"), ("parameters, far from any run",)),
        (("--law", "envelope"), ("no column names the runs", "--column run=NAME")),
        (("--law", "envelope", "--column", "run=zz"), ("--column run=zz", "'val_loss'")),
        (("--target-loss", "1e9"), ("--target-loss 1e9", "guessing")),
        (("--compute", "1e41"), ("1e41", "1e+40")),
        (("--compute", "0.001"), ("parameters, far from any run",)),
        (("--delta", "1e-300"), ("1e-300", "--estimator lad")),
        (("--predict", "N=1e9,D=1e10,L=3"), ("--predict gives L", "leave it out")),
        (("--predict", "N=1e9,D=1e10,C=1"), ("C = 1", "6e+19")),
        (("--law", "compute", "--predict", "N=1e9,D=1e10,C=1"), ("C = 1", "6e+19")),
        (("--peak", "1e15", "--utilisation", "40%"), ("'40%'", "0.4")),
        (("--bootstrap", "1000000"), ("60 rows in 1,000,000 resamples", "--bootstrap 666666")),
        (("--target-loss", "-1"), ("--target-loss -1", "above 0")),
        (("--inference-tokens", "1T"), ("--target-loss",)),
        (("--unique-tokens", "1B"), ("--compute",)),
        (("--predict", "N=3e9"), ("--predict needs D",)),
        (("--predict", "Q=3"), ("'Q=3'", "symbols")),
        (("--bootstrap", "5"), ("'5'", "100")),
        (("--seed", "-1"), ("'-1'",)),
        (("--compute", "abc"), ("--compute", "'abc'")),
        (("--peak", "H1000", "--utilisation", "0.4"), ("H1000", "H100 SXM")),
        (("--peak", "1e15", "--utilisation", "40"), ("40", "0.4")),
        (("--delta", "-1"), ("--delta -1",)),
        (("--delta", "1e-3", "--estimator", "lad"), ("huber", "lad")),
        (("--quantile", "0.5"), ("--estimator quantile",)),
        (("--quantile", "2", "--estimator", "quantile"), ("between 0 and 1",)),
        (("--column", "L=zz"), ("--column L=zz", "'val_loss'")),
        (("--column", "L=a", "--column", "l=b"), ("twice",)),
        (("--unit", "D=apples"), ("'apples'",)),
        (("--count", "non-embedding"), ("without embeddings",)),
        (("--plots", "/dev/null/x"), ("/dev/null/x",)),
    ],
)  # fmt: skip
def test_wrong_words(
    arguments: tuple[str, ...], parts: tuple[str, ...], table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, table, *arguments)
    assert all(part in message for part in parts), message


def test_how_far_from_the_runs_a_plan_lies(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--target-loss", "2.0", "--predict", "N=1e12,D=1e13", "--predict", "N=1e7,D=1e8")
    found = said(capsys, table, *FAST, *asked)
    assert found["cheapest"]["beyond_the_runs"] == pytest.approx(found["cheapest"]["C"]["value"] / 3e21, rel=1e-3)
    assert found["predictions"][0]["beyond_the_runs"] == pytest.approx(6e25 / 3e21, rel=1e-3)
    assert found["predictions"][1]["below_the_runs"] == pytest.approx(1e19 / 6e15, rel=1e-3)
    assert cli.main(["fit", table, *FAST, *asked]) == 0
    shown = capsys.readouterr().out
    assert "2e+04 times the largest run's FLOPs" in shown and "1.67e+03 times below the smallest run's FLOPs" in shown
    assert "a run with N = 1 T, D = 10 T\n" in shown


def test_a_slip_in_the_table_is_named(table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.csv").write_text(Path(table).read_text() + "\n1e9,20,26.1\n")
    [warning, *_] = [each for each in said(capsys, str(tmp_path / "runs.csv"), *FAST)["warnings"] if "slip" in each]
    assert warning.startswith("line 62 lies 10.1 times above the law")
    lines = Path(table).read_text().splitlines()
    (tmp_path / "same.csv").write_text("\n".join([lines[0], *(f"{line.rsplit(',', 1)[0]},2.5" for line in lines[1:])]))
    for law in ("chinchilla", "isoflop"):
        assert "the same loss, 2.5" in refused(capsys, str(tmp_path / "same.csv"), "--law", law)


def test_a_count_that_rounds_up_keeps_its_unit() -> None:
    assert [fit_table._plain(value) for value in (20_000.0, 9_999.4, 1.2e8)] == ["20,000", "9,999", "1.200e+08"]
    assert [fit_table._amount(value) for value in (999.7e9, 999.4e9, 1.0004e6)] == ["1 T", "999 B", "1 M"]


def test_the_guide_shows_what_the_command_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "fitting.md").read_text()
    script = page.split("```python\n")[1].split("```")[0]
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (tmp_path / "runs.csv").write_text(made.stdout)
    for words in ((), ("--compute", "1e23"), ("--law", "isoflop")):
        assert cli.main(["fit", str(tmp_path / "runs.csv"), *words]) == 0
        shown = [line[:25].rstrip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        figures = [line for line in shown if line[-1:].isdigit() and not line.startswith("   ")]
        assert len(figures) >= 4
        assert all(line in page for line in figures), figures


def test_too_few_runs_and_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.csv").write_text("N,D,loss\n1e8,2e9,3.1\n2e8,4e9,2.9\n")
    assert "5 coefficients" in refused(capsys, str(tmp_path / "runs.csv"))
    assert "does not exist" in refused(capsys, str(tmp_path / "none.csv"))
    assert "evergreen fit runs.csv" in refused(capsys)


def test_the_laws_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert [each["law"] for each in said(capsys, "--laws")] == [*LAWS, "isoflop", "envelope"]
    assert cli.main(["fit", "--laws"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in LAWS)
    assert max(map(len, shown.splitlines())) <= 80
