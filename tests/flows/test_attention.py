"""`evergreen attention` as a user meets it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import cli
from models.architectures import fresh_model
from models.tokenizer import train_tokenizer

TEXT = "a river in France, a poet of Spain, a lake in Norway, a castle"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command sets the environment of its process; here it is put back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer([TEXT] * 4, vocabulary=270, context=64)
    fresh_model(1, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["attention", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return " ".join(shown.err.split())


def test_the_table_has_a_line_for_each_head_in_80_columns(
    model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["attention", model, TEXT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("model      LlamaModel, 3 layers of 1 head, ")
    (head,) = (at for at, line in enumerate(lines) if line.startswith("layer  head"))
    assert lines[head].split()[2:] == ["entropy", "distance", "first", "previous", "itself", "induction"]
    assert [line.split()[:2] for line in lines[head + 1 : head + 4]] == [["0", "0"], ["1", "0"], ["2", "0"]]
    assert all(len(line) == len(lines[head]) for line in lines[head + 1 : head + 4])
    pictures = [Path(line.split()[1]) for line in lines if line.startswith("picture")]
    assert pictures == [Path("attention") / f"{name}.png" for name in ("overview", "layer-0", "layer-1", "layer-2")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_the_document(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    assert cli.main(["attention", model, TEXT, "--layers", "0, 2", "--chat", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        "model", "folder", "architecture", "causal", "text", "chat", "layers", "heads", "tokens", "uniform_entropy",
        "figures", "pictures",
    ]  # fmt: skip
    assert (found["text"], found["chat"], found["layers"]) == (TEXT, True, 3)
    assert [each["layer"] for each in found["figures"]] == [0, 2]
    assert found["pictures"] == [str(out / f"{name}.png") for name in ("overview", "layer-0", "layer-2")]
    assert found["tokens"][0]["text"] == "<|user|>"


def test_wrong_use_is_one_sentence(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for layers in ("x", "0,,2", "-1", "1.5"):
        assert "is no number of a layer; give them as in 0,2" in refused(capsys, model, TEXT, f"--layers={layers}")
    assert "no model answers to 'nobody'" in refused(capsys, "nobody", TEXT)
    assert "the text is empty" in refused(capsys, model, "")
    (tmp_path / "file").write_text("")
    said = refused(capsys, model, TEXT, "--out", str(tmp_path / "file"))
    assert said == f"evergreen: --out {tmp_path / 'file'} is no folder that can be written (File exists): name another"
