"""What a pre-training goes on from: how it is named, what its identity is, and what is said where there is nothing."""

import logging
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoTokenizer

from tasks import catalogue, starts, steps
from tasks.artifacts import Artifact, Checkpoint
from tasks.errors import StartError
from tasks.loading import require_chat_template
from tests import contest, tiny
from tests.tiny import EXECUTION, TinyRecipe

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def _store(shared_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the hub's format."""
    return contest.model(tmp_path_factory.mktemp("base"), seed=1).model


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one model, as `hf download` leaves it: a branch, a commit, links to files by their hash."""
    cache = tmp_path / "hub"
    model = cache / "models--someone--small"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    (model / "snapshots" / COMMIT).mkdir(parents=True)
    (model / "blobs").mkdir()
    for file in base.iterdir():
        shutil.copy(file, model / "blobs" / steps.file_digest(file))
        (model / "snapshots" / COMMIT / file.name).symlink_to(Path("..", "..", "blobs", steps.file_digest(file)))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_folder_is_known_by_its_content_wherever_it_lies(base: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(base, tmp_path / "moved"))
    here, there = (starts.import_step(starts.found(str(folder))) for folder in (base, moved))
    assert here.key == there.key
    assert str(base) not in str(here.identity)
    (moved / "generation_config.json").write_text("{}")
    assert starts.import_step(starts.found(str(moved))).key != here.key


def test_a_model_of_the_hub_comes_from_its_cache(hub: Path, base: Path) -> None:
    start = starts.found("hf:someone/small")
    assert starts.import_step(start).recipe.model_dump() == {
        "kind": "hub", "digest": "", "name": "someone/small", "commit": COMMIT,
    }  # fmt: skip
    made = starts.import_model.fn(start, EXECUTION)
    assert made.key == starts.key(start)
    weights = "model.safetensors"
    assert steps.file_digest(made.model / weights) == steps.file_digest(base / weights)


def test_a_branch_of_the_hub_is_the_commit_that_it_stands_for(hub: Path) -> None:
    named, exact = (starts.import_step(starts.found(f"hf:someone/small@{name}")).key for name in ("main", COMMIT))
    assert named == exact
    (hub / "models--someone--small" / "refs" / "main").write_text(OTHER)
    assert starts.import_step(starts.found("hf:someone/small")).key != exact


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("hf:someone/else", r"someone/else@main is not in the hub's cache and the network is switched off"),
        (f"hf:someone/small@{OTHER}", r"HF_HUB_OFFLINE=0, or download it \(`hf download someone/small --local-dir"),
        ("hf:a/b/c", "is not of the form hf:OWNER/NAME"),
        ("hf:", "is not of the form hf:OWNER/NAME"),
    ],
)
def test_a_model_of_the_hub_that_is_not_there_says_what_to_do(hub: Path, reference: str, message: str) -> None:
    with pytest.raises(StartError, match=message):
        starts.import_model.fn(starts.found(reference), EXECUTION)


def test_a_registered_model_is_named_as_everywhere(base: Path, tmp_path: Path) -> None:
    report = contest.report(tmp_path / "report", 0.9)
    contest.register(contest.model(tmp_path / "model", seed=3), report, "going-on")
    for reference in ("going-on", "going-on/1"):
        start = starts.found(reference)
        model = starts.begin(start, EXECUTION, context=64)
        assert model.model == catalogue.resolve("going-on/1")
        assert starts.key(start) == model.key


def test_the_folder_of_a_step_is_that_step(base: Path) -> None:
    def write(folder: Path) -> dict[str, int]:
        shutil.copytree(base, folder / "model")
        return {}

    made = steps.materialise(steps.Step("pretrain", "main", TinyRecipe()), Checkpoint, write)
    start = starts.found(str(made.path))
    assert (start.kind, starts.key(start)) == ("step", made.key)
    assert starts.begin(start, EXECUTION, context=16).model == made.model


def test_what_is_no_start_says_what_could_be(base: Path, tmp_path: Path) -> None:
    empty, adapter, other = tmp_path / "empty", tmp_path / "adapter", tmp_path / "notes.txt"
    for folder in (empty, adapter):
        folder.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    other.write_text("hello")
    said = {
        str(empty): f"the folder {empty} holds no config.json; give a folder with config.json, a",
        str(adapter): "holds an adapter alone: merge it into its base",
        str(other): "is a file of another kind",
        str(tmp_path / "none.gguf"): f"there is no {tmp_path / 'none.gguf'}",
        "nobody": "no model answers to 'nobody'",
        str(tiny.dataset().path): "is a step of data/dataset, which holds no model",
    }
    for reference, message in said.items():
        with pytest.raises(StartError) as caught:
            starts.found(reference)
        assert message in str(caught.value), reference


def test_a_context_beyond_the_positions_is_refused_before_anything_is_read(base: Path) -> None:
    start = starts.found(str(base))
    with pytest.raises(StartError, match=r"continued.context is 65 and the model in .* has 64 positions"):
        starts.begin(start, EXECUTION, context=65)
    assert not steps.finished("pretrain", "imported")


def test_without_earlier_data_it_says_that_knowledge_may_be_forgotten(
    base: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("evergreen"), "propagate", True)
    start = starts.found(str(base))
    assert starts.earlier_data(start, "") is None
    assert "nothing is replayed and it may forget; name a data set like it with earlier" in caplog.text
    data = tiny.dataset()
    found = starts.earlier_data(start, "latest")
    assert isinstance(found, Artifact) and found.key == data.key


def test_the_data_of_a_registered_model_are_found_by_its_lineage(tmp_path: Path) -> None:
    data = tiny.dataset()
    lineage = {"data_key": data.key, "data_digest": data.digest}
    made = contest.model(tmp_path / "model", seed=4)
    contest.register(made, contest.report(tmp_path / "report", 0.9), "remembers", lineage)
    start = starts.found("remembers/1")
    found = starts.earlier_data(start, "")
    assert found is not None and (found.key, found.path) == (data.key, data.path)
    assert starts.seen(start) == data.key


def test_fine_tuning_says_what_a_base_without_a_chat_template_needs(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    require_chat_template(tokenizer, base)
    tokenizer.chat_template = None
    with pytest.raises(StartError, match=r"has no chat template.*put a chat_template\.jinja with \{% generation %\}"):
        require_chat_template(tokenizer, base)
