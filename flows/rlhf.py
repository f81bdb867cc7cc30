"""Alignment as a flow of its own."""

from prefect import flow

from tasks import steps
from tasks.artifacts import Checkpoint, Dataset, Pairs
from tasks.preferences import PreferenceRecipe, sample_preferences
from tasks.reward import RewardRecipe, train_reward
from tasks.rlhf import RLHFRecipe, align
from tasks.settings import Execution


@flow
def rlhf(
    model: str = "latest",
    dataset: str = "latest",
    preferences: PreferenceRecipe = PreferenceRecipe(),
    reward: RewardRecipe = RewardRecipe(),
    recipe: RLHFRecipe = RLHFRecipe(),
    execution: Execution = Execution(),
) -> tuple[Pairs, Checkpoint, Checkpoint]:
    """1. sample and rank answers  2. train the reward model  3. move the policy towards it, held by a KL penalty

    Args:
        model: a finished fine-tuning: `latest`, the start of its key, or its folder
        dataset: a finished data set, likewise
    """
    tuned, data = steps.find(model, "sft", Checkpoint, name="lora"), steps.find(dataset, "data", Dataset)
    pairs = sample_preferences(tuned, data, preferences, execution)
    judge = train_reward(tuned, pairs, data, reward, execution)
    return pairs, judge, align(tuned, judge, data, recipe, execution)
