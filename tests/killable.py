"""Runs one training stage on the tiny data in a process that a test can kill: `python -m tests.killable STAGE`."""

import sys

from tasks import pretrain, sft
from tasks.artifacts import Artifact, Checkpoint
from tasks.preferences import PreferenceRecipe, sample_preferences
from tasks.reward import RewardRecipe, train_reward
from tasks.rlhf import RLHFRecipe, align
from tests import tiny

PRETRAIN = pretrain.PretrainRecipe(
    size=1, tokens=24_000, context=32, batch=4, mixture={"encyclopaedia": 1.0}, validation_tokens=640, evaluations=2
)
SFT = sft.SFTRecipe(epochs=6, batch=8, rank=4, max_length=64, learning_rate=1e-2)
PREFERENCES = PreferenceRecipe(prompts=40, samples=4, gap=0.05, length_ratio=10, max_new_tokens=8, temperature=1.5)
REWARD = RewardRecipe(epochs=20, batch=8)
RLHF = RLHFRecipe(steps=24, prompts=2, generations=4, rank=4, max_new_tokens=8)


def run(stage: str) -> Artifact:
    """The stage and, where the store lacks them, the ones before it."""
    data = tiny.dataset()
    vocabulary = tiny.tokenizer(data)
    base = pretrain.pretrain_model.fn(vocabulary, None, PRETRAIN, tiny.EXECUTION)
    if stage == "pretrain":
        return base
    tuned = sft.finetune.fn(base, data, SFT, tiny.EXECUTION)
    if stage == "sft":
        return tuned
    pairs = sample_preferences.fn(tuned, data, PREFERENCES, tiny.EXECUTION)
    judge: Checkpoint = train_reward.fn(tuned, pairs, data, REWARD, tiny.EXECUTION)
    return judge if stage == "reward" else align.fn(tuned, judge, data, RLHF, tiny.EXECUTION)


if __name__ == "__main__":
    from tasks.settings import apply_environment

    apply_environment()
    sys.stdout.write(run(sys.argv[1]).digest + "\n")
