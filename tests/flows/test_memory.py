"""`evergreen memory` as a user meets it: from a config to bytes, FLOPs, time and disk, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from flows import cli
from tests.models.steps_to_measure import config_of


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.main(["memory", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["memory", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return " ".join(shown.err.split())


def test_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "--model", "size:4", "--peak", "1e12", "--utilisation", "0.5", "--tokens", "1M")
    assert found.keys() == {"model", "family", "serve", "step", "parameters", "method", "peak_bytes", "parts", "flops",
                            "time", "disk_bytes", "fits", "seconds"}  # fmt: skip
    assert sum(found["parts"].values()) == found["peak_bytes"]
    assert found["parts"]["weights"] == 4 * found["parameters"]["total"] == found["disk_bytes"]["weights"]
    assert found["time"]["training_seconds"] == pytest.approx(found["flops"]["per_token"] * 1e6 / 5e11)
    assert (found["method"], found["fits"]) == ("closed form", None)


def test_the_table_has_units_and_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["memory", "--model", "llama:hidden=256,layers=4", "--lora", "8", "--fits", "2GB", "--quick"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(r"^peak memory  \d+\.\d\d MB on each device$", shown, re.MULTILINE)
    assert re.search(r"^ +logits +\d+\.\d\d MB$", shown, re.MULTILINE)
    assert re.search(r"fits +the largest micro-batch within 2.00 GB: \d+, which", shown)


def test_a_family_without_a_formula_takes_the_fake_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_of("bloom").save_pretrained(tmp_path)
    options = ("--model", str(tmp_path), "--sequence", "64")
    assert said(capsys, *options)["method"] == "fake step"
    assert said(capsys, "--model", str(tmp_path / "config.json"), "--sequence", "64")["parts"]["activations"] > 0
    assert "does not know the family bloom" in refused(capsys, *options, "--quick")


def test_the_largest_micro_batch_fits_and_the_next_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", "size:3", "--sequence", "64")
    fits = said(capsys, *options, "--fits", "60MB")["fits"]
    assert fits["checked"] and fits["peak_bytes"] <= 60e6
    more = said(capsys, *options, "--exact", "--batch", str(fits["batch"] + 1))
    assert more["peak_bytes"] > 60e6
    assert said(capsys, *options, "--fits", "1MB", "--quick")["fits"]["batch"] == 0


def test_devices_share_the_states(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", "size:4", "--devices", "8")
    alone, shared = (said(capsys, *options, "--sharding", each)["parts"] for each in ("none", "zero1"))
    assert shared["optimizer"] == pytest.approx(alone["optimizer"] / 8, rel=0.01)
    assert shared["activations"] == alone["activations"]


def test_serving(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", "llama:hidden=256,layers=4,heads=8,kv=2", "--serve", "--batch", "3", "--sequence", "512")
    wide, narrow = (said(capsys, *options, "--precision", each) for each in ("bf16", "int8"))
    assert wide["parts"]["KV cache"] == narrow["parts"]["KV cache"] == 2 * 4 * 2 * 32 * 2 * 512 * 3
    assert narrow["parts"]["weights"] < wide["parts"]["weights"] == 2 * wide["parameters"]["total"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "no/such"), "--model no/such is no folder with a config.json"),
        (("--model", "size:0"), "is no dial; give whole numbers above 0, as in size:4"),
        (("--model", "llama:hidden=64"), "needs hidden and layers"),
        (("--model", "llama:hidden=100,layers=2,heads=3"), "hidden 100 must be a multiple of heads 3"),
        (("--model", "size:4", "--batch", "0"), "--batch '0' is no whole number from 1"),
        (("--model", "size:4", "--sequence", "many"), "--sequence 'many' is no whole number"),
        (("--model", "size:4", "--precision", "int4"), "give --lora 16"),
        (("--model", "size:4", "--fits", "24XB"), "--fits '24XB' is no amount of memory; give one as in 24GB"),
        (("--model", "size:4", "--sharding", "fsdp"), "needs more than one device: give --devices 8"),
        (("--model", "size:4", "--serve", "--lora", "4"), "--lora cannot be used with --serve"),
        (("--model", "size:4", "--serve", "--precision", "bf16-autocast"), "is of training"),
        (("--model", "size:4", "--peak", "A100"), "--utilisation is missing"),
        (("--model", "size:4", "--peak", "Z80", "--utilisation", "0.4"), "no accelerator 'Z80'"),
        (("--model", "size:4", "--peak", "A100", "--utilisation", "40"), "is more than all of it"),
        (("--model", "size:4", "--tokens", "1B"), "give --peak and --utilisation too"),
        (("--model", "size:4", "--batch", "999999", "--sequence", "999999"), "give fewer for one device"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, *arguments)


def test_configs_that_cannot_be_planned_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert "is no config of a model that transformers knows" in refused(capsys, "--model", str(broken))
    AutoConfig.for_model("t5").save_pretrained(tmp_path / "t5")
    assert "--model " in refused(capsys, "--model", str(tmp_path / "t5"))
    config_of("gpt2").save_pretrained(tmp_path / "gpt2")
    told = refused(capsys, "--model", str(tmp_path / "gpt2"), "--sequence", "4096")
    assert "--sequence 4096 is more than the 512 positions of the model" in told
    assert "has no config.json" in refused(capsys, "--model", str(tmp_path))
