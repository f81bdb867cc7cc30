import shutil
from pathlib import Path

import pytest

from tasks.history import history, status
from tasks.remote import set_default
from tasks.settings import home
from tasks.transfer import push
from tasks.versioning import version_data, version_model
from tests.versions import commit, damage, git, made, object_of, pointer, step


@pytest.fixture(autouse=True)
def project(places: None, tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def test_nothing_is_said_of_nothing_and_nothing_is_made(project: Path, tmp_path: Path) -> None:
    assert status() == {"remote": None, "versions": []}
    assert history() == []
    assert list(project.iterdir()) == [] and not (tmp_path / "home").exists()


def test_status_of_what_is_as_it_should_be(project: Path) -> None:
    dataset = made()
    version_data.fn(dataset)
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    (version,) = status()["versions"]
    out = pointer()["outs"][0]
    assert version == {
        "name": "data", "pointer": "data.dvc", "key": dataset.key, "digest": dataset.digest, "md5": out["md5"],
        "files": 3, "bytes": out["size"], "folder": {"state": "exact", "changed": [], "more": 0},
        "cache": {"complete": True, "missing": 0, "damaged": []}, "remote": None, "committed": None,
    }  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before


def test_status_imports_no_dvc(project: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    version_data.fn(made())
    set_default(str(tmp_path / "remote"))
    program = "import sys; from tasks.history import history, status; status(); history(); print('dvc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_status_names_what_was_changed(project: Path) -> None:
    version_data.fn(made())
    (project / "data" / "same.txt").write_text("by hand\n")
    for number in range(6):
        (project / "data" / f"mine{number}.txt").write_text("")
    folder = status()["versions"][0]["folder"]
    assert folder == {"state": "changed", "changed": [f"mine{number}.txt" for number in range(5)], "more": 2}
    shutil.rmtree(project / "data")
    assert status()["versions"][0]["folder"]["state"] == "missing"


def test_status_of_a_cache_that_is_not_whole(project: Path) -> None:
    version_data.fn(made())
    damage(object_of("same.txt"))
    object_of("counts.json").unlink()
    assert status()["versions"][0]["cache"] == {"complete": False, "missing": 1, "damaged": ["same.txt"]}


def test_status_of_the_remote(project: Path, tmp_path: Path) -> None:
    version_data.fn(made())
    set_default(str(tmp_path / "remote"))
    found = status()
    assert found["remote"] == {"name": "storage", "url": str(tmp_path / "remote"), "problem": ""}
    assert found["versions"][0]["remote"] == {"complete": False, "missing": 4}
    push()
    assert status()["versions"][0]["remote"] == {"complete": True, "missing": 0}
    shutil.rmtree(tmp_path / "remote")
    found = status()
    assert "is not there: mount its disk" in found["remote"]["problem"]
    assert found["versions"][0]["remote"] is None


def test_status_of_models_and_of_git(project: Path, tmp_path: Path) -> None:
    git("init")
    version_data.fn(made())
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    version_model.fn(tmp_path / "weights", "mine-1.2")
    data, model = status()["versions"]
    assert (data["committed"], model["name"], model["folder"]["state"]) == (False, "models/mine-1.2", "exact")
    commit("one")
    assert [version["committed"] for version in status()["versions"]] == [True, False]
    version_data.fn(made("two"))
    assert status()["versions"][0]["committed"] is False


def test_history_joins_git_and_the_store(project: Path) -> None:
    git("init")
    one, two, three = made("one"), made("two"), made("three")
    version_data.fn(one)
    first = commit("the first")
    version_data.fn(two)
    second = commit("the second")
    shutil.rmtree(two.path)
    found = {entry["key"]: entry for entry in history()}
    assert set(found) == {one.key, two.key, three.key}
    assert (found[one.key]["commit"], found[one.key]["subject"]) == (first, "the first")
    assert (found[two.key]["commit"], found[three.key]["commit"]) == (second, None)
    assert [found[each.key]["current"] for each in (one, two, three)] == [False, True, False]
    assert [found[each.key]["restorable"] for each in (one, two, three)] == [["cache", "store"], ["cache"], ["store"]]
    assert (found[three.key]["files"], found[three.key]["rows"], found[two.key]["rows"]) == (3, 1, 1)
    assert found[three.key]["bytes"] == sum(
        p.stat().st_size for p in three.path.rglob("*.[jt]*") if p.name != "manifest.json"
    )
    when = [entry["when"] for entry in history()]
    assert when == sorted(when, reverse=True)


def test_history_without_git_or_store_has_the_present_version(project: Path) -> None:
    version_data.fn(made("one"))
    shutil.rmtree(home())
    (entry,) = history()
    assert (entry["key"], entry["commit"], entry["current"]) == (step("one").key, None, True)
    assert entry["restorable"] == ["cache"]
    shutil.rmtree(project / ".dvc" / "cache")
    (entry,) = history()
    assert (entry["restorable"], entry["rows"]) == ([], None)


def test_a_commit_that_broke_or_deleted_the_pointer_is_passed_over(project: Path) -> None:
    git("init")
    version_data.fn(made("one"))
    commit("good")
    kept = (project / "data.dvc").read_bytes()
    (project / "data.dvc").write_text("<<<<<<< HEAD\n")
    commit("broken")
    (project / "data.dvc").write_bytes(kept)
    assert [entry["subject"] for entry in history()] == ["good"]
