"""What a model says on a few probes, to be compared with what its export says later: the same weights say the same."""

from collections.abc import Mapping, Sequence
from typing import Any

PROBES = 8
TIES = 1  # probes whose answer may differ where the losses agree: two tokens were equally likely
TOLERANCE = 1e-3  # nats per token; merging an adapter moves a loss by about 1e-6 in fp32


def record(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], *, max_new_tokens: int = 24
) -> dict[str, Any]:
    """Greedy answers to the first rows, and the loss of the rows' own answers in nats per token.

    A row holds the messages `prompt` and the text `answer`. The result is JSON.
    """
    from models.generation import answer, answer_losses

    probes = [{"prompt": list(row["prompt"]), "answer": row["answer"]} for row in rows[:PROBES]]
    chats, texts = [probe["prompt"] for probe in probes], [probe["answer"] for probe in probes]
    outputs = answer(model, tokenizer, chats, max_new_tokens=max_new_tokens)
    losses = answer_losses(model, tokenizer, chats, texts)
    return {
        "max_new_tokens": max_new_tokens,
        "probes": [
            {**probe, "output": output[0], "loss": nll / tokens}
            for probe, output, (nll, tokens) in zip(probes, outputs, losses, strict=True)
        ],
    }


def differences(recorded: Mapping[str, Any], model: Any, tokenizer: Any) -> list[str]:
    """A sentence for each probe on which a model differs from the record; empty where it is the same model.

    A loss may differ by TOLERANCE, the answers of TIES probes in whole. Raises ValueError for a record without probes,
    which would agree with anything.
    """
    rows = recorded["probes"]
    if not rows:
        raise ValueError("the record holds no probes; nothing can be compared with it")
    found = record(model, tokenizer, rows, max_new_tokens=recorded["max_new_tokens"])["probes"]
    pairs = list(enumerate(zip(rows, found, strict=True), start=1))
    losses = [
        f"probe {number}: loss {now['loss']:.4f} where training ended with {before['loss']:.4f}"
        for number, (before, now) in pairs
        if not abs(before["loss"] - now["loss"]) <= TOLERANCE
    ]
    answers = [
        f"probe {number}: answers {now['output']!r} where training ended with {before['output']!r}"
        for number, (before, now) in pairs
        if before["output"] != now["output"]
    ]
    return losses + (answers if len(answers) > TIES else [])
