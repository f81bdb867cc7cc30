"""How good an answer is, and how sure we are: ROUGE, BLEU, perplexity, bootstrap intervals."""

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

ROUGE = ("rouge1", "rouge2", "rougeL")
_TOKEN = re.compile(r"[^\W_]+")
_BLOCK = 1 << 22  # resampled values held at once: 32 MB


class Interval(NamedTuple):
    """A mean over `n` items with a bootstrap confidence interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


class _Words:
    """rouge-score's tokenizer for every alphabet: the library's own drops all letters outside a-z."""

    def tokenize(self, text: str) -> list[str]:
        return _TOKEN.findall(text.casefold())


@cache
def _scorer() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE), tokenizer=_Words())


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F-measures in [0, 1] (Lin 2004), computed by Google's rouge-score.

    Without stemming, the default of rouge-score and of Hugging Face evaluate: the Porter stemmer knows English alone
    and the data also holds French, Spanish and identifiers. On plain English the numbers equal the library's own.
    """
    return {name: float(value.fmeasure) for name, value in _scorer().score(reference, prediction).items()}


def perplexity(loss: float) -> float:
    """exp(loss) for a loss in nats per token; infinite where that overflows."""
    return math.exp(loss) if loss < 709 else math.inf


def bootstrap(
    values: Sequence[float] | np.ndarray, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The mean of `values` with its percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    The same seed and number of items give the same resamples, so rows of one report are drawn alike. Where all values
    are equal the interval has no width, which is no proof of certainty. Raises ValueError for an empty or non-finite
    sample.
    """
    sample = _finite(values)
    means = np.concatenate([sample[rows].mean(axis=1) for rows in _resamples(sample.size, draws, seed)])
    return _interval(float(sample.mean()), means, sample.size, level)


def paired(
    better: Sequence[float] | np.ndarray,
    worse: Sequence[float] | np.ndarray,
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The mean difference `better - worse` on the same items in the same order, with its bootstrap interval.

    Raises ValueError where the two differ in length.
    """
    if len(better) != len(worse):
        raise ValueError(f"paired samples have {len(better)} and {len(worse)} items; score both on the same items")
    return bootstrap(np.subtract(better, worse), draws=draws, seed=seed, level=level)


def bleu_interval(
    predictions: Sequence[str], references: Sequence[str], *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Corpus BLEU in [0, 100] (Papineni et al. 2002) as sacrebleu computes it by default, with a bootstrap interval.

    Items are resampled and their n-gram counts summed anew (Koehn 2004); sacrebleu's own resampling takes its seed
    from the environment only. Raises ValueError for no items or lists of unequal length.
    """
    if len(predictions) != len(references) or not references:
        raise ValueError(f"{len(predictions)} predictions and {len(references)} references; BLEU needs as many of both")
    from sacrebleu.metrics import BLEU

    scorer = BLEU(effective_order=True)  # counts per item do not depend on it, and sacrebleu warns without it
    items = [scorer.sentence_score(p, [r]) for p, r in zip(predictions, references, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in items])
    sums = np.concatenate(
        [counts[rows].sum(axis=1) for rows in _resamples(len(items), draws, seed, width=counts.shape[1])]
    )

    def value(row: np.ndarray) -> float:
        c = row.tolist()
        return float(BLEU.compute_bleu(c[:4], c[4:8], c[8], c[9], smooth_method="exp").score)

    return _interval(value(counts.sum(axis=0)), np.array([value(row) for row in sums]), len(items), level)


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not sample.size:
        raise ValueError(f"a bootstrap needs a flat sample of one value or more, not one of shape {sample.shape}")
    if bad := int((~np.isfinite(sample)).sum()):
        raise ValueError(f"{bad} of {sample.size} values are not finite; drop or repair those items first")
    return sample


def _resamples(items: int, draws: int, seed: int, *, width: int = 1) -> Iterator[np.ndarray]:
    """Item indices of shape (draws, items) in blocks that keep the gathered values small."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // (items * width))
    for done in range(0, draws, block):
        yield rng.integers(items, size=(min(block, draws - done), items))


def _interval(mean: float, resampled: np.ndarray, items: int, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, it must lie between 0 and 1, as in 0.95")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), items)
