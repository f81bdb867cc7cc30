"""The check of the loss mask, on TRL's own trainer: what it lets through, and each thing that it refuses."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.architectures import fresh_model
from models.tokenizer import ASSISTANT, END, USER, train_tokenizer
from tasks import notes, report, sft, sft_worker, steps
from tasks.artifacts import Checkpoint
from tasks.errors import LossMaskError, SourceError
from tasks.settings import ROOT, Execution

SHARED = ROOT.parent / "shared" / "data"
GENERATION, ENDED = "{%- generation -%}", "{%- endgeneration -%}"
CONTENT = "{{- message['content'] -}}"
PROMPT = f"{{%- if add_generation_prompt -%}}{{{{- '{ASSISTANT}' -}}}}{{%- endif -%}}"
RATES = {"lr": 0.01, "embedding_lr": 0.01}
TEXTS = ["The quick brown fox jumps over the lazy dog. " * 20]


def template(assistant: str, *, user: str = f"{{{{- '{USER}' -}}}}{CONTENT}", prompt: str = PROMPT) -> str:
    """A chat template of its own for the assistant's turns, the user's and the generation prompt."""
    turn = "{%- if message['role'] == 'assistant' -%}" + assistant + "{%- else -%}" + user + "{%- endif -%}"
    return "{%- for message in messages -%}" + turn + "{%- endfor -%}" + prompt


HEAD, STOP = f"{{{{- '{ASSISTANT}' -}}}}", f"{{{{- '{END}' -}}}}"


@pytest.fixture(scope="module")
def shipped() -> Any:
    return train_tokenizer(TEXTS, vocabulary=300, context=256)


@pytest.fixture(scope="module")
def model(shipped: Any) -> Any:
    return fresh_model(1, shipped, seed=0)


@pytest.fixture
def tokenizer(shipped: Any) -> Any:
    return copy.deepcopy(shipped)


def rows(count: int = 6) -> list[dict[str, Any]]:
    made = [
        {
            "id": f"row:{i}",
            "prompt": f"Who jumps {'very ' * i}high?",
            "response": f"{'🦊 ' * (i % 2)}The fox {'and dog ' * i}🦊",
        }
        for i in range(count)
    ]
    return [{"id": row["id"], **sft.conversation(row)} for row in made]


def trainer(model: Any, tokenizer: Any, examples: list[dict[str, Any]], folder: Path, *, max_length: int = 200) -> Any:
    recipe = sft.SFTRecipe(batch=4, max_length=max_length)
    return sft_worker._trainer(
        model, tokenizer, examples, folder, recipe, Execution(device="cpu"), longest=max_length, epochs=1, rates=RATES
    )


def trained(made: Any, tokenizer: Any) -> set[str]:
    """What the loss of a first batch counts, example by example."""
    batch = next(iter(made.get_train_dataloader()))
    return {tokenizer.decode(labels[labels != -100]) for labels in batch["labels"]}


def answers(examples: list[dict[str, Any]]) -> set[str]:
    return {row["completion"][0]["content"] + END for row in examples}


def test_the_shipped_template_trains_the_answers_and_is_shown(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    examples = rows()
    made = trainer(model, tokenizer, examples, tmp_path)
    assert trained(made, tokenizer) <= answers(examples)
    shown = json.loads((tmp_path / "loss_mask.json").read_text(encoding="utf-8"))
    assert (shown["examples"], shown["checked"]) == (6, 6)
    assert shown["share"]["mean"] == made.trained_share
    assert 0 < shown["share"]["min"] < shown["share"]["max"] < 1
    sample = shown["samples"][-1]
    assert sample["id"] == "row:5"
    assert "".join(text for text, counted in sample["pieces"] if counted) == "🦊 The fox " + "and dog " * 5 + "🦊" + END
    assert "<mark>" in (tmp_path / "loss_mask.html").read_text(encoding="utf-8")


def test_the_check_leaves_no_trace_but_its_files(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = trainer(model, tokenizer, rows(), tmp_path / name)
        before = torch.get_rng_state()
        check(made, tmp_path / name)
        assert torch.equal(torch.get_rng_state(), before)
        digests.append(steps.hash_files(tmp_path / name))
    assert digests[0] == digests[1]
    assert set(digests[0]) == {"log/notes.txt", "loss_mask.json", "loss_mask.html"}


REFUSED = {
    "stop token outside the marks": (
        template(HEAD + GENERATION + CONTENT + ENDED + STOP),
        f"the stop token {END} is not trained, so the model would never learn to stop",
    ),
    "no stop token": (template(HEAD + GENERATION + CONTENT + ENDED), f"no stop token {END} ends the answer"),
    "marks around the user's turn": (
        template(HEAD + CONTENT + STOP, user=HEAD + GENERATION + CONTENT + ENDED),
        "nothing is trained, so TRL left it out",
    ),
    "no generation prompt": (template(HEAD + CONTENT + STOP, prompt=""), "what is trained is not the answer"),
    "more than the answer inside the marks": (
        template(HEAD + GENERATION + "{{- 'Well: ' -}}" + CONTENT + STOP + ENDED),
        "what is trained is not the answer",
    ),
    "less than the answer inside the marks": (
        template(
            HEAD + "{{- message['content'][:4] -}}" + GENERATION + "{{- message['content'][4:] -}}" + STOP + ENDED
        ),
        "what is trained is not the answer",
    ),
    "everything": (
        "{%- if add_generation_prompt -%}" + HEAD + "{%- endif -%}" + template(CONTENT + STOP, user=CONTENT, prompt=""),
        "everything is trained, the prompt too",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_trains_something_else_is_refused(
    name: str, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.chat_template, problem = REFUSED[name]
    with pytest.raises(LossMaskError) as refusal:
        trainer(model, tokenizer, rows(), tmp_path)
    message = str(refusal.value)
    assert problem in message
    assert "example 'row:0' ('Who jumps high?')" in message
    assert "put {% generation %} around the assistant's content and the end-of-turn token" in message
    assert ("⟦" in message) == ("nothing is trained" not in message)
    assert list(tmp_path.glob("loss_mask.*")) == []


@pytest.mark.parametrize(
    "assistant", [HEAD + CONTENT + STOP, HEAD + GENERATION + ENDED + CONTENT + STOP], ids=["no marks", "empty marks"]
)
def test_a_template_without_marks_trains_the_completion(
    assistant: str, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.chat_template = template(assistant)
    examples = rows()
    assert trained(trainer(model, tokenizer, examples, tmp_path), tokenizer) <= answers(examples)


def test_marks_around_every_turn_train_the_completion_alone(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    user = GENERATION + f"{{{{- '{USER}' -}}}}" + CONTENT + ENDED
    tokenizer.chat_template = template(GENERATION + HEAD + CONTENT + STOP + ENDED, user=user)
    examples = rows()
    assert trained(trainer(model, tokenizer, examples, tmp_path), tokenizer) <= answers(examples)


def test_the_report_shows_a_sample_in_both_its_forms(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    example = {"id": "one", **sft.conversation({"prompt": "Who?", "response": "The ```fox``` <b>"})}
    trainer(model, tokenizer, [example], tmp_path)
    tuned = Checkpoint(stage="sft", name="lora", key="k", digest="d", path=tmp_path)
    recipe = report.ReportRecipe(title="T", model="m")
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        report.write(folder, recipe, {"sft": tuned})
    text, page = ((tmp_path / "one" / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    assert "## What fine-tuning learns from\n\n1 of 1 examples" in text
    line = f"{USER}Who?{ASSISTANT}⟦The ```fox``` <b>{END}⟧"
    assert f"`one`, what is trained in brackets:\n\n````text\n{line}\n````" in text
    assert page.count("<mark>") == 1
    assert ".tokens mark {" in page and "<b>" not in page
    assert steps.hash_files(tmp_path / "one") == steps.hash_files(tmp_path / "two")


def test_an_answer_that_max_length_cuts_off_is_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    examples = rows(2)
    lengths = sft_worker._lengths(tokenizer, examples)
    with pytest.raises(LossMaskError, match=rf"'row:1' .*cut off: the example fills max_length, {lengths[0]} tokens"):
        trainer(model, tokenizer, examples, tmp_path, max_length=lengths[0])
    assert sft_worker._fitting(tokenizer, examples, lengths[0], tmp_path) == (examples[:1], lengths[:1])


def test_a_pad_token_that_is_the_stop_token_is_harmless_in_the_trainers_collator(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.pad_token = tokenizer.eos_token
    examples = rows()
    made = trainer(model, tokenizer, examples, tmp_path)
    assert made.data_collator.pad_token_id == tokenizer.eos_token_id
    assert trained(made, tokenizer) <= answers(examples)


def test_a_collator_that_masks_padding_by_its_id_is_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    def masked(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collator(examples)
        batch["labels"][batch["input_ids"] == tokenizer.pad_token_id] = -100
        return batch

    tokenizer.pad_token = tokenizer.eos_token
    made = trainer(model, tokenizer, rows(), tmp_path)
    collator, made.data_collator = made.data_collator, masked
    with pytest.raises(LossMaskError, match="is not trained, and it is the pad token as well") as refusal:
        check(made, tmp_path)
    assert "Give the tokenizer a pad token of its own" in str(refusal.value)


def test_a_collator_that_trains_padding_is_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    def padded(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collator(examples)
        padding = batch["attention_mask"] == 0
        batch["labels"][padding] = batch["input_ids"][padding]
        return batch

    made = trainer(model, tokenizer, rows(), tmp_path)
    collator, made.data_collator = made.data_collator, padded
    with pytest.raises(LossMaskError, match="padding is trained"):
        check(made, tmp_path)


def check(made: Any, folder: Path) -> float:
    return sft_worker.check_mask(made, [], [len(ids) for ids in made.train_dataset["input_ids"]], folder)


def test_of_a_conversation_the_last_answer_is_trained(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who jumps?"},
        {"role": "assistant", "content": "The fox"},
    ]
    last = sft.conversation({"history": history, "prompt": "Over whom?", "response": "The dog"})
    examples = [*rows(3), {"id": "talk", **last}]
    assert [turn["role"] for turn in examples[-1]["prompt"]] == ["system", "user", "assistant", "user"]
    made = trainer(model, tokenizer, examples, tmp_path)
    assert trained(made, tokenizer) <= answers(examples)
    talk = next(row for row in made.train_dataset if row["id"] == "talk")
    whole = f"{USER}Be brief.{USER}Who jumps?{ASSISTANT}The fox{END}{USER}Over whom?{ASSISTANT}The dog{END}"
    assert tokenizer.decode(talk["input_ids"]) == whole
    assert tokenizer.decode([label for label in talk["labels"] if label != -100]) == f"The dog{END}"


def test_the_history_counts_towards_the_length(tokenizer: Any, tmp_path: Path) -> None:
    history = [{"role": "user", "content": "fox " * 90}, {"role": "assistant", "content": "dog"}]
    row = {"id": "talk", **sft.conversation({"history": history, "prompt": "Who?", "response": "The dog"})}
    with pytest.raises(SourceError, match="all 1 instructions have more than 64 tokens"):
        sft_worker._fitting(tokenizer, [row], 64, tmp_path)


def test_examples_with_the_letters_of_a_control_token_are_left_out(
    model: Any, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    typed = {"prompt": f"Who{ASSISTANT}?", "response": "The fox"}
    said = {"prompt": "Who?", "response": f"The fox{END}and more"}
    told = {"history": [{"role": "system", "content": USER}], "prompt": "Who?", "response": "The fox"}
    bad = [{"id": f"bad:{i}", **sft.conversation(row)} for i, row in enumerate((typed, said, told))]
    caplog.set_level("INFO", logger="evergreen.training")
    report_ = notes.follow("sft/lora", tmp_path / "log")
    kept, _ = sft_worker._fitting(tokenizer, [*bad, *rows()], 200, tmp_path)
    assert kept == rows()
    report_()
    assert caplog.messages == [
        "sft/lora: left out 3 of 9 rows: they hold the letters of a control token, the first of them 'bad:0' those of "
        f"{ASSISTANT}"
    ]
    with pytest.raises(SourceError, match=r"all 2 rows hold the letters of a control token.*'bad:1' those of <\|endof"):
        sft_worker._fitting(tokenizer, bad[1:], 200, tmp_path)
    made = trainer(model, tokenizer, kept, tmp_path)
    opened = [
        sum(i == tokenizer.convert_tokens_to_ids(ASSISTANT) for i in ids) for ids in made.train_dataset["input_ids"]
    ]
    assert opened == [1] * len(opened)


def test_examples_keep_the_ids_of_their_rows(tmp_path: Path) -> None:
    lines = [{"id": f"row:{i}", "kind": "gloss", "prompt": "Who?", "response": "The fox"} for i in range(4)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    made = sft.examples(path, sft.SFTRecipe(), seed=1)
    assert sorted(row["id"] for row in made) == [line["id"] for line in lines]


def real_rows() -> list[dict[str, Any]]:
    def read(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (SHARED / name).read_text(encoding="utf-8").splitlines()]

    sums = [
        {"id": f"sum:{i}", "prompt": row["question"], "response": row["answer"]}
        for i, row in enumerate(read("gsm8k.train.300.jsonl"))
    ]
    orders = [
        {"id": row["id"], "prompt": row["instruction"], "response": row["instances"][0]["output"]}
        for row in read("stanford_alpaca.seed_tasks.jsonl")
    ]
    return sums + orders


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder ../shared/data beside the repository")
def test_the_shipped_template_passes_on_real_rows(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    examples = [{"id": row["id"], **sft.conversation(row)} for row in real_rows()]
    examples, _ = sft_worker._fitting(tokenizer, examples, 2000, tmp_path)
    assert len(examples) >= 200
    made = trainer(model, tokenizer, examples, tmp_path, max_length=2000)
    assert json.loads((tmp_path / "loss_mask.json").read_text(encoding="utf-8"))["checked"] == 64
    wrong = 0
    for row in made.train_dataset:
        counted = tokenizer.decode([label for label in row["labels"] if label != -100])
        wrong += counted != row["completion"][0]["content"] + END
    assert wrong == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "execution"),
    [
        ({}, {}),
        ({"embeddings": False}, {"micro_batch": 2}),
        ({"load": "bf16"}, {"micro_batch": 2, "checkpointing": True}),
        ({"load": "bf16", "embeddings": False}, {}),
    ],
)
def test_a_fine_tuning_takes_what_was_forecast(
    tokenizer: Any, tmp_path: Path, given: dict[str, Any], execution: dict[str, Any]
) -> None:
    from peft import get_peft_model

    from models import adapters

    recipe = sft.SFTRecipe(batch=4, rank=16, max_length=128, **given)
    base = fresh_model(1, tokenizer, seed=0).to(torch.float32 if recipe.load == "fp32" else torch.bfloat16)
    adapted = get_peft_model(base, adapters.lora(base, 16, embeddings=recipe.embeddings))
    chosen = Execution(device="cpu", threads=1, processes=1, **execution)
    made = sft_worker._trainer(
        adapted, tokenizer, rows(12), tmp_path, recipe, chosen, longest=128, epochs=1, rates=RATES
    )
    adapters.train_in_fp32(made.model)
    memory = sft_worker._run(made, tmp_path)["execution"]["memory"]
    assert abs(memory["error"]) < 0.02, memory
    assert "memory forecast" in (tmp_path / "log" / notes.NOTES).read_text()
