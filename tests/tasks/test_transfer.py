import os
import shutil
from pathlib import Path

import pytest

from tasks import objects, pointers, repository
from tasks.errors import DataVersionError, UsageError
from tasks.remote import set_default
from tasks.settings import home
from tasks.transfer import pull, push
from tasks.versioning import version_data, version_model
from tests.versions import commit, damage, git, killed, made, object_of, pointer, word_here


@pytest.fixture(autouse=True)
def project(places: None, tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture
def remote(project: Path, tmp_path: Path) -> Path:
    set_default(str(tmp_path / "remote"))
    return tmp_path / "remote" / "files" / "md5"


def gone(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def cache(project: Path) -> Path:
    return project / ".dvc" / "cache"


def there(remote: Path, path: str) -> Path:
    found = object_of(path)
    return remote / found.parent.name / found.name


def test_push_sends_what_is_not_there_and_says_how_much(project: Path, remote: Path, tmp_path: Path) -> None:
    version_data.fn(made("one"))
    size = pointer()["outs"][0]["size"]
    done = push()
    listing = pointers.object_path(pointer()["outs"][0]["md5"]).stat().st_size
    assert (done["remote"], done["files"], done["bytes"], done["already_there"]) == ("storage", 3, size + listing, 0)
    assert (push()["files"], push()["bytes"], push()["already_there"]) == (0, 0, 4)
    version_data.fn(made("two"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    version_model.fn(tmp_path / "weights", "mine")
    assert push()["files"] == 2, "one file differs, one is the model's"


def test_a_lost_object_of_the_remote_is_sent_again(project: Path, remote: Path) -> None:
    """DVC takes the presence of the list of files for that of the files."""
    version_data.fn(made())
    push()
    there(remote, "same.txt").unlink()
    assert push()["files"] == 1
    assert there(remote, "same.txt").exists()


def test_push_without_a_remote_or_a_version_says_what_to_do(project: Path, tmp_path: Path) -> None:
    with pytest.raises(DataVersionError, match="there is no remote; set one up: evergreen data remote URL"):
        push()
    set_default(str(tmp_path / "remote"))
    with pytest.raises(DataVersionError, match="nothing is versioned yet"):
        push()
    version_data.fn(made())
    (tmp_path / "remote").rmdir()
    with pytest.raises(DataVersionError, match=r"remote storage \(.*remote\) is not there: mount its disk"):
        push()
    assert not (tmp_path / "remote").exists()


def test_a_damaged_object_is_mended_before_it_is_pushed(project: Path, remote: Path) -> None:
    version_data.fn(made())
    damage(object_of("same.txt"))
    push()
    assert there(remote, "same.txt").read_text() == "the same in every version\n"


def test_a_damaged_object_that_nothing_has_whole_is_not_pushed(project: Path, remote: Path) -> None:
    version_data.fn(made())
    damage(object_of("same.txt"))
    gone(home())
    (project / "data" / "same.txt").unlink()
    with pytest.raises(DataVersionError, match=r"lost or damaged data: same\.txt, and neither .* Build it again"):
        push()
    assert not list(remote.rglob("*"))


def test_a_remote_without_room_is_named(project: Path, remote: Path) -> None:
    version_data.fn(made())
    remote.mkdir(parents=True)
    if os.geteuid():
        remote.chmod(0o500)
    else:  # root may write anywhere
        (remote / object_of("same.txt").parent.name).write_text("a file where a folder belongs")
    with pytest.raises(DataVersionError, match=r"permission denied: |remote storage .* cannot be"):
        push()
    assert not list(remote.rglob("*.dir")), "whoever finds the list of files takes the files for granted"


def test_pull_brings_the_version_of_a_fresh_clone(project: Path, remote: Path) -> None:
    version_data.fn(made())
    push()
    gone(project / "data", cache(project), home())
    done = pull(project / "data")
    assert (done["written"], done["files"], word_here()) == (True, 3, "one")
    assert pointers.unsound(pointers.read(project / "data")) == {}
    assert os.access(project / "data" / "same.txt", os.W_OK)
    before = {path: path.stat().st_mtime_ns for path in (project / "data").rglob("*")}
    assert pull(project / "data")["written"] is False
    assert {path: path.stat().st_mtime_ns for path in (project / "data").rglob("*")} == before


def test_pull_brings_a_model(project: Path, remote: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    version_model.fn(tmp_path / "weights", "mine")
    push()
    gone(project / "models" / "mine", cache(project), tmp_path / "weights")
    pull(project / "models" / "mine")
    assert (project / "models" / "mine" / "config.json").read_text() == "{}"


def test_pull_takes_from_the_store_what_nothing_else_has(project: Path) -> None:
    version_data.fn(made())
    gone(project / "data", cache(project))
    pull(project / "data")
    assert word_here() == "one"


def test_pull_mends_the_cache_from_the_remote(project: Path, remote: Path) -> None:
    version_data.fn(made())
    push()
    gone(home())
    damage(object_of("same.txt"))
    (project / "data" / "same.txt").unlink()
    pull(project / "data")
    assert object_of("same.txt").read_text() == "the same in every version\n"
    assert (project / "data" / "same.txt").read_text() == "the same in every version\n"


@pytest.mark.parametrize("rest", ["remote", "no remote"])
def test_pull_of_what_nothing_has_says_so_and_leaves_the_folder(project: Path, tmp_path: Path, rest: str) -> None:
    version_data.fn(made())
    if rest == "remote":
        set_default(str(tmp_path / "remote"))
    gone(cache(project), home())
    (project / "data" / "same.txt").unlink()
    match = r"remote storage \(.*\) does not have" if rest == "remote" else "there is no remote to bring it from"
    with pytest.raises(DataVersionError, match=match):
        pull(project / "data")
    assert word_here() == "one"


@pytest.mark.parametrize("harm", ["damaged", "lost"])
def test_pull_from_a_remote_that_is_not_whole_leaves_everything(project: Path, remote: Path, harm: str) -> None:
    version_data.fn(made())
    push()
    stored = there(remote, "text/train.jsonl")
    damage(stored) if harm == "damaged" else stored.unlink()
    if harm == "damaged":
        stored.chmod(0o644)  # DVC itself would now look, and delete it
    lost = object_of("text/train.jsonl")
    gone(cache(project), home())
    (project / "data" / "text" / "train.jsonl").unlink()
    kept = (project / "data.dvc").read_bytes()
    found = (
        f"has text/train.jsonl damaged: delete {stored} there"
        if harm == "damaged"
        else "does not have text/train.jsonl"
    )
    with pytest.raises(DataVersionError, match=found):
        pull(project / "data")
    assert (project / "data" / "same.txt").exists() and not (project / "data" / "text" / "train.jsonl").exists()
    assert (project / "data.dvc").read_bytes() == kept
    assert not lost.exists(), "what came damaged must not stay in the cache"
    assert stored.exists() is (harm == "damaged"), "nothing of the remote is ever deleted"


def test_pull_never_overwrites_a_changed_folder(project: Path, remote: Path) -> None:
    version_data.fn(made())
    push()
    (project / "data" / "same.txt").write_text("by hand\n")
    with pytest.raises(DataVersionError, match=r"same\.txt was changed"):
        pull(project / "data")
    assert (project / "data" / "same.txt").read_text() == "by hand\n"


def test_pull_without_a_pointer_says_how_there_comes_one(project: Path) -> None:
    with pytest.raises(DataVersionError, match=r"there is no .*data\.dvc; a run of the data stage makes it"):
        pull(project / "data")


def test_pull_of_a_revision_brings_pointer_and_folder_and_commits_nothing(project: Path, remote: Path) -> None:
    git("init")
    version_data.fn(made("one"))
    first = commit("one")
    push()
    kept = (project / "data.dvc").read_bytes()
    version_data.fn(made("two"))
    commit("two")
    gone(cache(project), home())
    done = pull(project / "data", first[:8])
    assert (done["written"], word_here()) == (True, "one")
    assert (project / "data.dvc").read_bytes() == kept
    assert git("log", "--format=%s").split() == ["two", "one"]
    with pytest.raises(UsageError, match="git knows no revision 'v9'"):
        pull(project / "data", "v9")


def test_pull_after_a_checkout_of_another_pointer(project: Path) -> None:
    """The folder is a version that DVC's cache has whole: nothing is lost with it."""
    git("init")
    version_data.fn(made("one"))
    first = commit("one")
    version_data.fn(made("two"))
    commit("two")
    git("checkout", "--quiet", first, "--", "data.dvc")
    pull(project / "data")
    assert word_here() == "one"


def test_a_version_that_only_the_pointer_names_is_not_forgotten(project: Path) -> None:
    git("init")
    version_data.fn(made("one"))
    first = commit("one")
    version_data.fn(made("two"))
    gone(home())
    with pytest.raises(DataVersionError, match="no commit and no step in the store names"):
        pull(project / "data", first)
    assert word_here() == "two"
    made("two")
    pull(project / "data", first)
    assert word_here() == "one"


def test_a_revision_without_the_pointer(project: Path) -> None:
    git("init")
    (project / "readme").write_text("")
    git("add", "readme")
    git("commit", "--quiet", "--message", "before")
    version_data.fn(made())
    with pytest.raises(DataVersionError, match=r"revision HEAD has no data\.dvc"):
        pull(project / "data", "HEAD")


@pytest.mark.parametrize("rename", [1, 2, 3])
def test_a_kill_of_a_pull_is_repaired_by_the_next(project: Path, remote: Path, rename: int) -> None:
    git("init")
    version_data.fn(made("one"))
    first = commit("one")
    version_data.fn(made("two"))
    second = commit("two")
    git("checkout", "--quiet", first, "--", "data.dvc")
    assert killed("pull", rename)
    pull(project / "data", second if rename % 2 else "")
    assert word_here() == ("two" if rename % 2 else "one")
    push()


def test_what_the_cache_gives_is_checked_before_anything_is_replaced(project: Path) -> None:
    version_data.fn(made())
    files = pointers.recorded(pointers.read(project / "data"))
    damage(object_of("same.txt"))
    with (
        repository.opened() as opened,
        pytest.raises(DataVersionError, match=r"same\.txt: what DVC's cache gave is not what it should hold"),
    ):
        objects.put(opened, files, project / "elsewhere")


def test_linked_folders_as_dvc_is_told(project: Path, tmp_path: Path) -> None:
    set_default(str(tmp_path / "remote"))
    with (project / ".dvc" / "config").open("a") as file:
        file.write("[cache]\n    type = symlink\n")
    version_data.fn(made("one"))
    assert (project / "data" / "same.txt").is_symlink()
    version_data.fn(made("two"))
    assert word_here() == "two"
