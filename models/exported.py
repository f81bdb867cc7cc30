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


def difference(recorded: Mapping[str, Any], model: Any, tokenizer: Any) -> str:
    """Where a model differs from the record, in a sentence; empty where it is the same model.

    A loss may differ by TOLERANCE, the answers of TIES probes in whole. Raises ValueError for a record without probes,
    which would agree with anything.
    """
    rows = recorded["probes"]
    if not rows:
        raise ValueError("the record holds no probes; nothing can be compared with it")
    found = record(model, tokenizer, rows, max_new_tokens=recorded["max_new_tokens"])["probes"]
    pairs = list(zip(rows, found, strict=True))
    apart = [(a["loss"], b["loss"]) for a, b in pairs if not abs(a["loss"] - b["loss"]) <= TOLERANCE]
    if apart:
        before, now = apart[0]
        return f"the loss of {len(apart)} of {len(rows)} probes differs, as {now:.4f} where training had {before:.4f}"
    others = [(a["output"], b["output"]) for a, b in pairs if a["output"] != b["output"]]
    if len(others) > TIES:
        said, says = others[0]
        return f"the answers to {len(others)} of {len(rows)} probes differ, as {says!r} where training had {said!r}"
    return ""
