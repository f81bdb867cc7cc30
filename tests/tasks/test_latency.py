import json

import numpy as np
import pytest

from tasks.gate import Gate
from tasks.latency import measure_latency, summary
from tasks.settings import Execution

FACTS = {"against": "champion", "answers": 10, "device": "cpu", "threads": 1}


def test_the_ratio_is_that_of_paired_rounds_and_bears_a_spoilt_one():
    slowed = [(1.2 * machine, 1.0 * machine) for machine in (1.0, 1.1, 3.0, 1.0, 0.9, 1.4, 1.0, 1.2, 2.0)]
    spoilt = [*slowed, (30.0, 1.0)]
    for rounds in (slowed, spoilt):
        found = summary(rounds, **FACTS)
        assert found.ratio == pytest.approx(1.2)
        assert found.low == pytest.approx(1.2)
        assert found.high == pytest.approx(1.2)
    assert summary(slowed, **FACTS).candidate == pytest.approx(0.132)
    assert summary(slowed, **FACTS).sentence == (
        "132.0 ms an answer against 110.0 ms, 9 rounds of 10 answers on cpu, 1 thread"
    )


def test_noise_of_a_busy_machine_seldom_makes_an_equal_model_too_slow():
    refused = 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        rounds = draw.lognormal(0, 0.3, (11, 1)) * draw.lognormal(0, 0.08, (11, 2))
        refused += summary(rounds.tolist(), **FACTS).high >= Gate().latency_ratio
    assert refused <= 10


@pytest.mark.slow
def test_two_models_are_timed_side_by_side(tmp_path):
    from models.architectures import Dimensions, build
    from models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a small river in the north"] * 9, vocabulary=300, context=64)
    special = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    for name, layers in {"small": 1, "large": 12}.items():
        shape = Dimensions(hidden=32, layers=layers, heads=1, intermediate=32)
        build(shape, vocabulary=300, context=64, special=special, seed=1).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    items = [{"id": str(n), "prompt": f"a river {n}"} for n in range(5)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    execution = Execution(threads=1, processes=1, device="cpu")
    options = {"rounds": 3, "answers": 3, "max_new_tokens": 8}
    found = measure_latency(tmp_path / "large", tmp_path / "small", tmp_path, execution, against="sft", **options)
    assert found.low > 1
    assert (found.against, found.rounds, found.answers, found.device, found.threads) == ("sft", 3, 3, "cpu", 1)
