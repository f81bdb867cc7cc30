import logging
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks import pointers, repository, steps
from tasks.artifacts import Dataset
from tasks.errors import DataVersionError
from tasks.settings import home
from tasks.versioning import commit_pointer, restore, version_data, version_model
from tests.versions import damage, git, killed, made, object_of, pointer, started, step, word_here


@pytest.fixture(autouse=True)
def project(places: None, tmp_path: Path) -> Path:
    return tmp_path / "project"


def test_the_folder_and_its_pointer(project: Path) -> None:
    dataset = made()
    summary = version_data.fn(dataset)
    assert (project / "data" / "text" / "train.jsonl").read_text() == '{"text": "one"}\n'
    assert not (project / "data" / steps.MANIFEST).exists()
    assert not (project / "data" / steps.UNHASHED).exists()
    assert pointer()["meta"] == {"key": dataset.key, "digest": dataset.digest}
    assert pointer()["outs"][0]["md5"] == summary["md5"]
    assert summary["md5"].endswith(".dir")
    assert summary["size"] == sum(p.stat().st_size for p in (project / "data").rglob("*") if p.is_file())


def test_dvc_itself_agrees(project: Path) -> None:
    """By hand, DVC sees nothing changed, brings a lost file back, and would write the same pointer."""
    from dvc.repo import Repo

    version_data.fn(made())
    kept = (project / "data.dvc").read_bytes()
    with Repo(str(project)) as repo:
        assert repo.status() == {}
        (project / "data" / "same.txt").unlink()
        assert repo.status() != {}
        repo.checkout()
        repo.add(str(project / "data"))
    assert (project / "data" / "same.txt").exists()
    assert yaml.safe_load((project / "data.dvc").read_bytes()) == yaml.safe_load(kept)


def test_already_right_touches_nothing(project: Path) -> None:
    first = version_data.fn(made())
    before = _times(project)
    assert version_data.fn(steps.load(step(), Dataset)) == first
    assert _times(project) == before


def test_what_somebody_added_to_the_pointer_stays(project: Path) -> None:
    version_data.fn(made())
    (project / "data.dvc").write_text(yaml.safe_dump({**pointer(), "desc": "ours"}))
    version_data.fn(made("two"))
    assert pointer()["desc"] == "ours"
    assert pointer()["meta"]["key"] == step("two").key


def test_the_pointer_moves_on_and_the_old_version_comes_back(
    project: Path, shared_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)
    old = made("one")
    version_data.fn(old)
    kept = (project / "data.dvc").read_bytes()
    version_data.fn(made("two"))
    assert (pointer()["meta"]["key"], word_here()) == (step("two").key, "two")
    (project / "data.dvc").write_bytes(kept)
    shutil.rmtree(home())
    restored = restore(step("one"))
    assert restored is not None
    assert (restored.digest, restored.summary, restored.key) == (old.digest, {"rows": 1}, old.key)
    assert word_here() == "two", "restoring fills the store; data/ is for the next step"
    version_data.fn(restored)
    assert word_here() == "one"


def test_restore_has_nothing_to_bring(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert restore(step()) is None
    version_data.fn(made())
    assert restore(step("another")) is None
    for folder in (project / "data", project / ".dvc" / "cache", home()):
        shutil.rmtree(folder)
    with caplog.at_level(logging.WARNING, "evergreen"):
        assert restore(step()) is None
    assert not caplog.records, "a fresh clone without a remote is nothing to warn of"


@pytest.mark.parametrize("change", ["edit", "add"])
@pytest.mark.parametrize("next_word", ["one", "two"])
def test_a_hand_changed_folder_is_never_overwritten(project: Path, change: str, next_word: str) -> None:
    first = made("one")
    version_data.fn(first)
    touched = project / "data" / ("same.txt" if change == "edit" else "mine.txt")
    touched.write_text("by hand\n")
    kept = (project / "data.dvc").read_bytes()
    following = first if next_word == "one" else made("two")
    with pytest.raises(DataVersionError, match=rf"{touched.name} .*dvc checkout data\.dvc --force"):
        version_data.fn(following)
    assert touched.read_text() == "by hand\n"
    assert (project / "data.dvc").read_bytes() == kept
    touched.unlink()
    version_data.fn(following)
    assert (project / "data" / "same.txt").exists()


def test_a_folder_that_nobody_recorded_is_never_overwritten(project: Path, tmp_path: Path) -> None:
    (project / "data").mkdir(parents=True)
    (project / "data" / "mine.csv").write_text("1,2\n")
    dataset = made()
    with pytest.raises(DataVersionError, match=r"mine\.csv is not part of it"):
        version_data.fn(dataset)
    assert (project / "data" / "mine.csv").read_text() == "1,2\n"
    (project / "data").rename(tmp_path / "elsewhere")
    (project / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataVersionError, match="a file or a link"):
        version_data.fn(dataset)
    assert (project / "data").is_symlink()


def test_missing_files_are_written_anew(project: Path) -> None:
    dataset = made()
    version_data.fn(dataset)
    (project / "data" / "same.txt").unlink()
    version_data.fn(dataset)
    assert (project / "data" / "same.txt").exists()
    shutil.rmtree(project / "data")
    version_data.fn(dataset)
    assert (project / "data" / "same.txt").exists()


def test_a_lost_pointer_or_cache_is_made_again(project: Path) -> None:
    dataset = made()
    first = version_data.fn(dataset)
    (project / "data.dvc").unlink()
    assert version_data.fn(dataset) == first
    shutil.rmtree(project / ".dvc" / "cache")
    assert version_data.fn(dataset) == first
    assert any((project / ".dvc" / "cache").rglob("*.dir"))


def test_lost_settings_of_dvc_cost_no_version(project: Path) -> None:
    version_data.fn(made("one"))
    kept = object_of("text/train.jsonl")
    (project / ".dvc" / "config").unlink()
    version_data.fn(made("two"))
    assert kept.exists()
    assert "analytics = False" in (project / ".dvc" / "config").read_text()


@pytest.mark.parametrize("path", ["same.txt", None])
def test_a_damaged_object_is_made_again(project: Path, path: str | None) -> None:
    """DVC takes what is read-only for whole and would keep it."""
    dataset = made()
    version_data.fn(dataset)
    file = object_of(path) if path else pointers.object_path(pointer()["outs"][0]["md5"])
    whole = file.read_bytes()
    damage(file)
    version_data.fn(dataset)
    assert file.read_bytes() == whole


def test_a_build_that_gives_something_else_is_refused(project: Path) -> None:
    version_data.fn(made("one"))
    kept = (project / "data.dvc").read_bytes()
    shutil.rmtree(home())
    with pytest.raises(DataVersionError, match=r"not deterministic: data\.dvc says"):
        version_data.fn(made("one", text="something else"))
    assert (project / "data.dvc").read_bytes() == kept
    assert word_here() == "one"


def test_a_pointer_with_another_md5_is_refused_and_kept(project: Path) -> None:
    dataset = made()
    version_data.fn(dataset)
    changed = pointer()
    changed["outs"][0]["md5"] = "0" * 32 + ".dir"
    (project / "data.dvc").write_text(yaml.safe_dump(changed))
    with pytest.raises(DataVersionError, match=rf"not deterministic: data\.dvc says .* gives md5 {'0' * 32}"):
        version_data.fn(dataset)
    assert pointer() == changed


@pytest.mark.parametrize("text", ["<<<<<<< HEAD\n", "outs: [[", "outs:\n- md5: x.dir\n  size: many\n", ""])
def test_a_broken_pointer_names_its_remedy(project: Path, text: str) -> None:
    project.mkdir(parents=True)
    (project / "data.dvc").write_text(text)
    with pytest.raises(
        DataVersionError, match=r"data\.dvc is not a DVC pointer; restore it with: git checkout data\.dvc"
    ):
        version_data.fn(made())


@pytest.mark.parametrize("following_word", ["one", "two"])
@pytest.mark.parametrize("rename", [1, 2, 3])
def test_a_kill_between_any_two_writes_is_repaired(project: Path, rename: int, following_word: str) -> None:
    """Before the folder is moved away, before the new one is moved there, and before the pointer follows."""
    version_data.fn(made("one"))
    made("two")
    assert killed("version-two", rename)
    following = steps.load(step(following_word), Dataset)
    version_data.fn(following)
    assert word_here() == following_word
    assert pointers.read(project / "data").key == following.key
    assert pointers.list_md5(pointers.files_of(project / "data")) == pointer()["outs"][0]["md5"]
    assert not (project / ".dvc" / "tmp" / "evergreen" / "data").exists()


def test_a_full_disk_leaves_folder_and_pointer(project: Path) -> None:
    """A limit on the size of a file makes the writes of this process fail as a full disk would."""
    version_data.fn(made("one"))
    kept = (project / "data.dvc").read_bytes()
    big = made("two", text="x" * 200_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DataVersionError, match=r"larger than a file may be: .*Nothing was replaced"):
            version_data.fn(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (word_here(), (project / "data.dvc").read_bytes()) == ("one", kept)
    assert not list((project / ".dvc" / "cache").rglob("*.tmp")), "half an object, on a full disk"
    version_data.fn(big)
    assert len(word_here()) == 200_000


def test_processes_at_once_leave_one_whole_version(project: Path, tmp_path: Path) -> None:
    from tasks.remote import set_default

    version_data.fn(made("one"))
    made("two")
    set_default(str(tmp_path / "remote"))
    orders = (["version-two", "version-one"] * 2, ["push", "pull"] * 2, ["pull", "version-two", "push"])
    running = [started(*order) for order in orders]
    assert [each.wait() for each in running] == [0, 0, 0], [each.communicate()[1] for each in running]
    now = pointers.read(project / "data")
    assert now.key in {step("one").key, step("two").key}
    assert pointers.list_md5(pointers.files_of(project / "data")) == now.md5
    assert pointers.unsound(now) == {}
    stored = [path for path in (tmp_path / "remote").rglob("*") if path.is_file()]
    assert {path.parent.name + path.name.removesuffix(".dir") for path in stored} == set(map(pointers.md5_of, stored))


def test_a_wait_says_for_whom(project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(repository, "SOON", 0.05)
    program = "import time; from tasks import repository as r\nwith r.lock(): print('held', flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        with caplog.at_level(logging.INFO, "evergreen"):
            version_data.fn(made())
    assert f"waiting for process {held.pid} on" in caplog.text
    assert word_here() == "one"


def test_dvc_by_hand_is_waited_for_and_then_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    version_data.fn(made("one"))
    two = made("two")
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0.1)
    program = (
        "import sys, time, zc.lockfile\nheld = zc.lockfile.LockFile(sys.argv[1]); print('held', flush=True)\n"
        "time.sleep(1)"
    )
    command = [sys.executable, "-c", program, str(project / ".dvc" / "tmp" / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as held, caplog.at_level(logging.INFO):
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        monkeypatch.setattr(repository, "PATIENCE", 0.0)
        with pytest.raises(DataVersionError, match=rf"process {held.pid} \(.* has held DVC's lock"):
            version_data.fn(two)
        assert word_here() == "one"
        monkeypatch.setattr(repository, "PATIENCE", 60.0)
        version_data.fn(two)
    assert f"waiting for process {held.pid} (" in caplog.text
    assert word_here() == "two"


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


def test_the_commit_is_of_the_pointer_alone(project: Path) -> None:
    project.mkdir()
    git("init")
    (project / "staged.txt").write_text("not for this commit")
    git("add", "staged.txt")
    version_data.fn(made("one"), commit=True)
    assert git("log", "-1", "--format=%s").strip() == f"data: {step('one').key} (1 rows)"
    assert git("show", "--name-only", "--format=").split() == ["data.dvc"]
    assert git("diff", "--cached", "--name-only").split() == ["staged.txt"]
    assert commit_pointer(project / "data") == "", "nothing has changed since"
    version_data.fn(made("two"))
    assert git("log", "--format=%s").count("\n") == 1, "off by default"
    made_commit = commit_pointer(project / "data")
    assert git("rev-parse", "HEAD").strip() == made_commit
    assert git("diff", "--cached", "--name-only").split() == ["staged.txt"]


def test_a_commit_that_cannot_be_made_says_why(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_data.fn(made())
    git("init")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git("config", "--unset", "user.name")
    git("config", "user.useConfigOnly", "true")
    with pytest.raises(DataVersionError, match="git does not know who you are"):
        commit_pointer(project / "data")
    git("config", "user.name", "Nobody")
    hook = project / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\necho not on a friday >&2; exit 1\n")
    hook.chmod(0o755)
    with pytest.raises(DataVersionError, match="git commit says: not on a friday"):
        commit_pointer(project / "data")
    assert git("diff", "--cached", "--name-only") == "", "the index is as it was"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataVersionError, match="no git checkout that git can read"):
        commit_pointer(project / "data")


def _times(project: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in project.rglob("*") if ".evergreen" not in path.parts}
