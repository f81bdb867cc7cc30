"""Loading a model folder to answer with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks import parallel


def pick_device(device: str) -> str:
    """`auto` is the GPU where there is one. Raises UsageError where a GPU is asked for and none is there."""
    return "cuda" if parallel.on_gpu(device) else "cpu"


def load(folder: Path, device: str = "auto") -> tuple[Any, Any]:
    """Model and tokenizer of a folder that `from_pretrained` reads."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return model.eval().to(pick_device(device)), AutoTokenizer.from_pretrained(folder)


def load_reward(folder: Path, device: str = "auto") -> tuple[Any, Any]:
    """A sequence classifier with one output, and its tokenizer."""
    import transformers
    from transformers import AutoTokenizer

    from models import judge

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return judge.load(folder).eval().to(pick_device(device)), AutoTokenizer.from_pretrained(folder)


class Chat:
    """A conversation partner: a model folder held in memory."""

    def __init__(self, folder: Path, *, device: str = "auto", max_new_tokens: int = 64):
        self.model, self.tokenizer = load(folder, device)
        self.max_new_tokens = max_new_tokens

    def reply(self, messages: Sequence[dict[str, str]]) -> str:
        """The greedy answer to the conversation so far, its oldest turns dropped where it grew too long."""
        from models.generation import answer

        room = self.tokenizer.model_max_length - self.max_new_tokens
        turns = list(messages)
        while len(turns) > 1 and self._length(turns) > room:
            turns = turns[1:]
        return answer(self.model, self.tokenizer, [turns], max_new_tokens=self.max_new_tokens)[0][0]

    def _length(self, turns: Sequence[dict[str, str]]) -> int:
        from models.tokenizer import chat_ids

        return len(chat_ids(self.tokenizer, [turns], add_generation_prompt=True)[0])
