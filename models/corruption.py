"""Texts with parts taken out, for models that learn to put them back: BERT's masks and T5's spans.

What is taken out of a window depends on nothing but the window and the generator given: a training that was stopped
and goes on sees the same. numpy alone.
"""

from typing import NamedTuple

import numpy as np

IGNORED = -100  # a label without a loss
NOISE = 0.15  # share of the tokens that are taken out, in BERT and in T5
MEAN_SPAN = 3.0  # tokens, in T5
MASKED, RANDOM = 0.8, 0.1  # shares of what is chosen: replaced by the mask, by any token; the rest stays


class Counts(NamedTuple):
    """Of a window with spans taken out: noise tokens, spans, and the lengths of what is read and what is written."""

    noise: int
    spans: int
    inputs: int
    targets: int


def counts_of(length: int) -> Counts:
    """For a window of `length` tokens, which decides all of it. Raises ValueError below 2 tokens.

    A sentinel stands for each span in what is read and before it in what is written; both end with the end token.
    """
    if length < 2:
        raise ValueError(f"a window of {length} tokens has no span to take out; give 2 or more")
    noise = max(1, min(length - 1, round(length * NOISE)))
    spans = max(1, min(noise, length - noise, round(noise / MEAN_SPAN)))
    return Counts(noise, spans, inputs=length - noise + spans + 1, targets=noise + spans + 1)


def masked(
    ids_T: np.ndarray, *, mask: int, special: frozenset[int], vocabulary: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Input and labels of masked language modelling (Devlin et al. 2019, 1810.04805, section 3.1), both of shape (T,).

    15% of the tokens are to be predicted, special ones never: 80% of these are replaced by `mask`, 10% by any of the
    `vocabulary`, 10% stay. A window of special tokens alone gives no labels.
    """
    open_ = np.flatnonzero(~np.isin(ids_T, list(special)))
    chosen = generator.permutation(open_)[: max(1, round(NOISE * len(ids_T)))]
    inputs, labels = ids_T.astype(np.int64), np.full(len(ids_T), IGNORED)
    labels[chosen] = inputs[chosen]
    fate = generator.random(len(chosen))
    inputs[chosen[fate < MASKED]] = mask
    drawn = chosen[(fate >= MASKED) & (fate < MASKED + RANDOM)]
    inputs[drawn] = generator.integers(0, vocabulary, len(drawn))
    return inputs, labels


def spans(
    ids_T: np.ndarray, *, sentinels: np.ndarray, end: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Input and target of span corruption (Raffel et al. 2020, 1910.10683, section 3.1.4), as long as `counts_of` says.

    15% of the tokens in spans of three on average; each is replaced by its sentinel, and the target lists them behind
    theirs. Lengths of spans and of what lies between are drawn uniformly from all ways to divide them. Raises
    ValueError for too few sentinels.
    """
    length, counts = len(ids_T), counts_of(len(ids_T))
    if counts.spans > len(sentinels):
        raise ValueError(
            f"a window of {length} tokens has {counts.spans} spans, and there are {len(sentinels)} sentinels: give a "
            "shorter context"
        )
    kept = _divided(length - counts.noise, counts.spans, generator)
    taken = _divided(counts.noise, counts.spans, generator)
    ends = np.cumsum(kept + taken)
    starts = ends - taken
    own = sentinels[: counts.spans]
    inside = np.repeat(np.tile([False, True], counts.spans), np.stack([kept, taken], 1).ravel())
    offsets = np.cumsum(taken) - taken
    read = np.insert(ids_T[~inside].astype(np.int64), starts - offsets, own)
    written = np.insert(ids_T[inside].astype(np.int64), offsets, own)
    return np.append(read, end), np.append(written, end)


def _divided(total: int, parts: int, generator: np.random.Generator) -> np.ndarray:
    """`parts` whole numbers above 0 with the sum `total`."""
    cuts = np.sort(generator.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
