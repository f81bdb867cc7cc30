import json
import shutil
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from tasks import steps
from tasks.artifacts import Dataset
from tasks.errors import DataVersionError
from tasks.versioning import restore, version_data, version_model


class Recipe(BaseModel):
    word: str = "one"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all: making MLflow's database takes longer than the tests."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def project(places: None, tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    return tmp_path / "project"


def step(word: str = "one") -> steps.Step:
    return steps.Step(stage="data", name="dataset", recipe=Recipe(word=word))


def made(word: str = "one", text: str | None = None) -> Dataset:
    def build(folder: Path) -> dict[str, int]:
        (folder / "text").mkdir()
        (folder / "text" / "train.jsonl").write_text(json.dumps({"text": text or word}) + "\n")
        (folder / "same.txt").write_text("the same in every version\n")
        (folder / "counts.json").write_text('{"rows": 1}\n')
        return {"rows": 1}

    return steps.materialise(step(word), Dataset, build)


def pointer(project: Path) -> dict:
    return yaml.safe_load((project / "data.dvc").read_text())


def test_the_folder_and_its_pointer(project: Path) -> None:
    dataset = made()
    summary = version_data.fn(dataset)
    assert (project / "data" / "text" / "train.jsonl").read_text() == '{"text": "one"}\n'
    assert not (project / "data" / steps.MANIFEST).exists()
    assert pointer(project)["meta"] == {"key": dataset.key, "digest": dataset.digest}
    assert pointer(project)["outs"][0]["md5"] == summary["md5"]
    assert summary["md5"].endswith(".dir")
    assert summary["size"] == sum(p.stat().st_size for p in (project / "data").rglob("*") if p.is_file())


def test_already_right_touches_nothing(project: Path) -> None:
    first = version_data.fn(made())
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    assert version_data.fn(made()) == first
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before


def test_the_pointer_moves_on_and_the_old_version_comes_back(project: Path) -> None:
    old = made("one")
    version_data.fn(old)
    kept = (project / "data.dvc").read_bytes()
    version_data.fn(made("two"))
    assert pointer(project)["meta"]["key"] == step("two").key
    assert (project / "data" / "text" / "train.jsonl").read_text() == '{"text": "two"}\n'
    (project / "data.dvc").write_bytes(kept)
    shutil.rmtree(project / "data")
    shutil.rmtree(steps.home())
    restored = restore(step("one"))
    assert restored is not None
    assert (restored.digest, restored.summary, restored.key) == (old.digest, {"rows": 1}, old.key)
    assert (project / "data" / "text" / "train.jsonl").read_text() == '{"text": "one"}\n'


def test_restore_from_a_remote(project: Path, tmp_path: Path) -> None:
    from dvc.repo import Repo

    version_data.fn(made())
    with Repo(str(project)) as repo:
        with repo.config.edit("repo") as settings:
            settings["remote"] = {"backup": {"url": str(tmp_path / "remote")}}
            settings["core"]["remote"] = "backup"
        repo.push()
    for folder in (project / "data", project / ".dvc" / "cache", project / ".dvc" / "tmp", steps.home()):
        shutil.rmtree(folder)
    assert restore(step()) is not None


def test_restore_has_nothing_to_bring(project: Path) -> None:
    assert restore(step()) is None
    version_data.fn(made())
    assert restore(step("another")) is None
    for folder in (project / "data", project / ".dvc" / "cache", steps.home()):
        shutil.rmtree(folder)
    assert restore(step()) is None


@pytest.mark.parametrize("change", ["edit", "add"])
@pytest.mark.parametrize("next_word", ["one", "two"])
def test_a_hand_changed_folder_is_never_overwritten(project: Path, change: str, next_word: str) -> None:
    version_data.fn(made("one"))
    touched = project / "data" / ("same.txt" if change == "edit" else "mine.txt")
    touched.write_text("by hand\n")
    kept = (project / "data.dvc").read_bytes()
    with pytest.raises(DataVersionError, match=rf"{touched.name} .*dvc checkout data\.dvc --force"):
        version_data.fn(made(next_word))
    assert touched.read_text() == "by hand\n"
    assert (project / "data.dvc").read_bytes() == kept
    touched.unlink()
    version_data.fn(made(next_word))
    assert (project / "data" / "same.txt").exists()


def test_a_folder_that_nobody_recorded_is_never_overwritten(project: Path) -> None:
    (project / "data").mkdir(parents=True)
    (project / "data" / "mine.csv").write_text("1,2\n")
    with pytest.raises(DataVersionError, match=r"mine\.csv is not part of it"):
        version_data.fn(made())
    assert (project / "data" / "mine.csv").read_text() == "1,2\n"


def test_missing_files_are_written_anew(project: Path) -> None:
    version_data.fn(made())
    (project / "data" / "same.txt").unlink()
    version_data.fn(made())
    assert (project / "data" / "same.txt").exists()
    shutil.rmtree(project / "data")
    version_data.fn(made())
    assert (project / "data" / "same.txt").exists()


def test_a_lost_pointer_or_cache_is_made_again(project: Path) -> None:
    first = version_data.fn(made())
    (project / "data.dvc").unlink()
    assert version_data.fn(made()) == first
    shutil.rmtree(project / ".dvc" / "cache")
    assert version_data.fn(made()) == first
    assert any((project / ".dvc" / "cache").rglob("*.dir"))


def test_a_build_that_gives_something_else_is_refused(project: Path) -> None:
    version_data.fn(made("one"))
    kept = (project / "data.dvc").read_bytes()
    shutil.rmtree(steps.home())
    with pytest.raises(DataVersionError, match=r"not deterministic: data\.dvc says"):
        version_data.fn(made("one", text="something else"))
    assert (project / "data.dvc").read_bytes() == kept
    assert (project / "data" / "text" / "train.jsonl").read_text() == '{"text": "one"}\n'


def test_a_pointer_with_another_md5_is_refused_and_kept(project: Path) -> None:
    version_data.fn(made())
    changed = pointer(project)
    changed["outs"][0]["md5"] = "0" * 32 + ".dir"
    (project / "data.dvc").write_text(yaml.safe_dump(changed))
    with pytest.raises(DataVersionError, match=rf"not deterministic: data\.dvc says {'0' * 32}"):
        version_data.fn(made())
    assert pointer(project) == changed


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n", "outs: [[", "outs:\n- path: data\n  size: many\n"])
def test_a_broken_pointer_names_its_remedy(project: Path, text: str) -> None:
    project.mkdir(parents=True)
    (project / "data.dvc").write_text(text)
    with pytest.raises(
        DataVersionError, match=r"data\.dvc is not a DVC pointer; restore it with: git checkout data\.dvc"
    ):
        version_data.fn(made())


def test_what_a_kill_leaves_is_repaired(project: Path) -> None:
    """Killed between the two renames, and between `dvc add` and the pointer's meta."""
    version_data.fn(made("one"))
    scratch = project / ".dvc" / "tmp" / "evergreen"
    scratch.mkdir(parents=True)
    (project / "data").rename(scratch / "old")
    version_data.fn(made("two"))
    assert not scratch.exists()
    half = pointer(project)
    del half["meta"]
    (project / "data.dvc").write_text(yaml.safe_dump(half))
    version_data.fn(made("two"))
    assert pointer(project)["meta"]["key"] == step("two").key


def test_a_model_folder(project: Path, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.mkdir()
    (source / "config.json").write_text("{}")
    summary = version_model.fn(source, "evergreen-nano-1")
    assert (project / "models" / "evergreen-nano-1" / "config.json").read_text() == "{}"
    recorded = yaml.safe_load((project / "models" / "evergreen-nano-1.dvc").read_text())
    assert recorded["outs"][0]["md5"] == summary["md5"]
    assert version_model.fn(source, "evergreen-nano-1") == summary
    with pytest.raises(DataVersionError, match="is not a model folder"):
        version_model.fn(tmp_path / "nothing", "x")
