"""What a champion learns next: every new row, a fixed share of the known ones, and the held-out sides as they are."""

import json
import shutil
from pathlib import Path

import pytest

from tasks import steps
from tasks.artifacts import Dataset
from tasks.replay import ReplayRecipe, mix
from tests import tiny
from tests.tiny import TinyRecipe


@pytest.fixture(autouse=True)
def _store(shared_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared_store)


def dataset(articles: int, seed: int = 0) -> Dataset:
    return tiny.dataset(TinyRecipe(articles=articles, seed=seed))


def rows(made: Dataset, kind: str, split: str = "train") -> list[dict[str, str]]:
    return [json.loads(line) for line in (made.path / kind / f"{split}.jsonl").read_text().splitlines()]


def test_new_rows_come_with_a_share_of_the_known_ones():
    before, now = dataset(100), dataset(200)
    known = {row["text"] for row in rows(before, "text")}
    expected = [row for row in rows(now, "text") if row["text"] not in known]
    learnt = mix.fn(now, before, ReplayRecipe(share=0.25))
    texts = [row["text"] for row in rows(learnt, "text")]
    assert [text for text in texts if text not in known] == [row["text"] for row in expected]
    shared = len(rows(now, "text")) - len(expected)
    assert learnt.summary["new"]["text"] == len(expected) > 0
    assert learnt.summary["replayed"]["text"] == len(texts) - len(expected) == round(0.25 * shared) > 0


def test_held_out_sides_are_those_of_the_new_data():
    before, now = dataset(100), dataset(200)
    learnt = mix.fn(now, before, ReplayRecipe())
    for kind in ("text", "instructions", "preferences"):
        for split in ("validation", "test"):
            file = f"{kind}/{split}.jsonl"
            assert (learnt.path / file).read_bytes() == (now.path / file).read_bytes()


def test_the_same_text_under_another_id_is_known():
    before = dataset(100)
    renamed = before.path / "text" / "train.jsonl"
    lines = [json.loads(line) for line in renamed.read_text().splitlines()]

    def write(folder):
        shutil.copytree(before.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        (folder / "text" / "train.jsonl").write_text(
            "".join(json.dumps({**row, "id": f"other:{row['id']}"}) + "\n" for row in lines)
        )
        return {}

    again = steps.materialise(steps.Step(stage="data", name="renamed", recipe=TinyRecipe()), Dataset, write)
    learnt = mix.fn(again, before, ReplayRecipe(share=0.0))
    assert learnt.summary["new"] == {"text": 0, "instructions": 0, "preferences": 0}
    assert rows(learnt, "text") == []


def test_rows_that_are_gone_are_counted():
    learnt = mix.fn(dataset(100), dataset(200), ReplayRecipe())
    assert learnt.summary["gone"]["text"] > 0
    assert learnt.summary["new"]["text"] == 0


def test_without_the_earlier_data_all_rows_are_new_and_it_says_so(caplog):
    import logging

    logging.getLogger("evergreen").propagate = True
    with caplog.at_level("WARNING", logger="evergreen.replay"):
        learnt = mix.fn(dataset(100), None, ReplayRecipe())
    assert "are lost: every row counts as new" in caplog.text
    assert learnt.summary["new"]["text"] == len(rows(dataset(100), "text"))


def test_the_choice_is_the_same_each_time_and_another_with_another_seed():
    before, now = dataset(100), dataset(200)
    first, other = (mix.fn(now, before, ReplayRecipe(seed=seed)) for seed in (1, 2))
    assert first.digest != other.digest
    shutil.rmtree(first.path)
    assert mix.fn(now, before, ReplayRecipe(seed=1)).digest == first.digest


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="share"):
        ReplayRecipe(share=share)


def foreign(articles: int = 200) -> Dataset:
    """Articles of another draw."""
    return dataset(articles, seed=7)


def unseen(now: Dataset, before: Dataset) -> set[str]:
    return {row["text"] for row in rows(now, "text")} - {row["text"] for row in rows(before, "text")}


@pytest.mark.parametrize("least", [0.05, 0.25, 0.5])
def test_rows_of_the_earlier_data_alone_fill_the_replay_up_to_its_share_of_the_characters(least: float) -> None:
    before, now = dataset(400), foreign()
    fresh = unseen(now, before)
    learnt = mix.fn(now, before, ReplayRecipe(share=0.0, least=least))
    texts = [row["text"] for row in rows(learnt, "text")]
    replayed = [text for text in texts if text not in fresh]
    longest = max(map(len, replayed))
    assert abs(sum(map(len, replayed)) - least * sum(map(len, texts))) <= longest
    assert learnt.summary["replayed"]["text"] == len(replayed) == len(set(replayed))
    assert learnt.summary["new"]["text"] == len(texts) - len(replayed) == len(fresh)
    assert {row["text"] for row in rows(before, "text")} >= set(replayed)


def test_what_is_replayed_stands_among_the_new_rows_and_not_behind_them() -> None:
    before, now = dataset(400), foreign()
    fresh = unseen(now, before)
    texts = [row["text"] for row in rows(mix.fn(now, before, ReplayRecipe(least=0.25)), "text")]
    replayed = sum(text not in fresh for text in texts)
    first = sum(text not in fresh for text in texts[: len(texts) // 2])
    assert abs(first - replayed / 2) <= 1


def test_rows_that_both_have_count_towards_the_least_replay() -> None:
    before, now = dataset(100), dataset(200)
    more, same = (mix.fn(now, before, ReplayRecipe(share=1.0, least=least)) for least in (0.3, 0.0))
    assert more.summary == same.summary  # half of it is replay as it is


def test_a_held_out_row_is_not_replayed() -> None:
    now = foreign(60)
    held = rows(now, "text", "validation") + rows(now, "text", "test")

    def write(folder: Path) -> dict[str, int]:
        shutil.copytree(dataset(100).path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        lines = [json.dumps(row) + "\n" for row in rows(dataset(100), "text") + held]
        (folder / "text" / "train.jsonl").write_text("".join(lines))
        return {}

    before = steps.materialise(steps.Step(stage="data", name="leaky", recipe=TinyRecipe()), Dataset, write)
    learnt = mix.fn(now, before, ReplayRecipe(least=0.9))
    assert learnt.summary["replayed"]["text"] == len(rows(dataset(100), "text"))
    assert not {row["text"] for row in held} & {row["text"] for row in rows(learnt, "text")}
