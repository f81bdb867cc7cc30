"""What a champion learns next: every new row, a fixed share of the known ones, and the held-out sides as they are."""

import json

import pytest

from tasks import steps
from tasks.artifacts import Dataset
from tasks.replay import ReplayRecipe, mix
from tests import tiny
from tests.tiny import TinyRecipe


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
        import shutil

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
    import shutil

    shutil.rmtree(first.path)
    assert mix.fn(now, before, ReplayRecipe(seed=1)).digest == first.digest


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="share"):
        ReplayRecipe(share=share)
