import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks import pointers
from tasks.errors import DataVersionError, UsageError
from tasks.remote import default, lacking_there, set_default
from tasks.transfer import pull, push
from tasks.versioning import version_data
from tests.versions import made, word_here


@pytest.fixture(autouse=True)
def project(places: None, tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def test_a_folder_becomes_the_default_remote(project: Path, tmp_path: Path) -> None:
    assert default() is None
    made_remote = set_default(str(tmp_path / "remote"))
    assert (made_remote.name, made_remote.folder) == ("storage", tmp_path / "remote")
    assert (tmp_path / "remote").is_dir()
    assert default() == made_remote
    assert set_default(str(tmp_path / "other")).name == "storage", "the present one, moved"
    assert set_default(str(tmp_path / "third"), name="Backup").name == "backup"
    text = (project / ".dvc" / "config").read_text()
    assert text.count("url = ") == 2 and "remote = backup" in text


def test_dvc_reads_the_same_remote(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    set_default("remote, with a comma")
    with Repo(str(project)) as repo:
        assert repo.cloud.get_remote().path == str(tmp_path / "remote, with a comma")
    found = default()
    assert found is not None and found.folder == tmp_path / "remote, with a comma"


def test_a_local_setting_stays_out_of_the_shared_file_and_gives_way_to_a_shared_one(
    project: Path, tmp_path: Path
) -> None:
    set_default(str(tmp_path / "shared"))
    assert not (project / ".dvc" / "config.local").exists()
    shared = (project / ".dvc" / "config").read_bytes()
    set_default(str(tmp_path / "mine"), local=True)
    assert (project / ".dvc" / "config").read_bytes() == shared
    found = default()
    assert found is not None and found.folder == tmp_path / "mine"
    for name in ("", "other"):
        set_default(str(tmp_path / f"again{name}"), name=name)
        found = default()
        assert found is not None and found.folder == tmp_path / f"again{name}"
        set_default(str(tmp_path / "mine"), local=True)


def test_other_settings_of_the_remote_stay_while_its_kind_does(project: Path, tmp_path: Path) -> None:
    set_default(str(tmp_path / "one"))
    with (project / ".dvc" / "config").open("a") as file:
        file.write("    jobs = 3\n")
    set_default(str(tmp_path / "two"))
    assert "jobs = 3" in (project / ".dvc" / "config").read_text()
    set_default("http://127.0.0.1:9/x")
    assert "jobs = 3" not in (project / ".dvc" / "config").read_text()


@pytest.mark.parametrize("place", ["data/backup", ".dvc/cache/x", ".dvc/tmp", ".", "..", "file", "no/such/folder"])
def test_a_folder_that_cannot_be_a_remote_is_refused(project: Path, place: str) -> None:
    (project / "file").write_text("")
    with pytest.raises(UsageError, match=r"choose|make it"):
        set_default(str(project / place))
    assert default() is None


@pytest.mark.parametrize(("scheme", "plugin"), [("s3", "dvc-s3"), ("gs", "dvc-gs"), ("ssh", "dvc-ssh")])
def test_a_missing_plugin_is_named_before_anything_is_set(scheme: str, plugin: str) -> None:
    with pytest.raises(DataVersionError, match=rf"pip install --constraint requirements.lock {plugin}"):
        set_default(f"{scheme}://bucket/path")
    assert default() is None


def test_what_is_no_remote_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no remote of the kind ftp://; give a folder, or one of .*azure.*s3.*ssh"):
        set_default("ftp://somewhere")
    with pytest.raises(UsageError, match=r"the password would be committed .* --local"):
        set_default("https://me:secret@example.org/x")
    with pytest.raises(UsageError, match="cannot name a remote"):
        set_default(str(tmp_path / "x"), name="no good")


def test_a_password_is_never_shown() -> None:
    remote = set_default("https://me:secret@example.org/x", local=True)
    assert "secret" not in f"{remote} {remote.shown}"
    assert remote.shown == "https://example.org/x"


def test_settings_that_are_broken_are_named(project: Path, tmp_path: Path) -> None:
    set_default(str(tmp_path / "x"))
    (project / ".dvc" / "config").write_text("[core]\n    remote = gone\n")
    with pytest.raises(DataVersionError, match="the default remote gone has no URL"):
        default()
    (project / ".dvc" / "config").write_text("<<<<<<< HEAD\n")
    with pytest.raises(DataVersionError, match="config cannot be read"):
        default()


def test_a_remote_over_http(project: Path, server: str) -> None:
    """A remote that is no folder: everything goes through DVC's plugin."""
    import shutil

    version_data.fn(made())
    set_default(server)
    named = set(pointers.objects(pointers.read(project / "data")))
    assert lacking_there(named) == named
    assert push()["files"] == 3
    assert lacking_there(named) == set()
    for folder in (project / "data", project / ".dvc" / "cache", project.parent / "home"):
        shutil.rmtree(folder)
    pull(project / "data")
    assert word_here() == "one"


def test_a_remote_that_does_not_answer_is_said(project: Path) -> None:
    version_data.fn(made())
    set_default("http://127.0.0.1:9/x")
    with pytest.raises(DataVersionError, match=r"remote storage \(http://127.0.0.1:9/x\) cannot be"):
        push()


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a server that keeps what is posted."""
    kept: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept[self.path] = self._body()
            self._answer(200, b"")

        def do_GET(self) -> None:
            self._answer(200 if self.path in kept else 404, kept.get(self.path, b""))

        do_HEAD = do_GET  # noqa: N815

        def _body(self) -> bytes:
            if length := self.headers.get("Content-Length"):
                return self.rfile.read(int(length))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/kept"
        running.shutdown()
