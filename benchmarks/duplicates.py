"""Measures `models.duplicates` on a synthetic corpus with planted near duplicates: time, memory, recall, precision.

python benchmarks/duplicates.py --documents 1000000
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from models.duplicates import Sketches

BATCH = 10_000
VOCABULARY, WORDS, EDITS, PLANTED = 50_000, 60, 5, 0.2
WIDTH = 5


class Corpus:
    """Documents of 60 words, frequent ones as in language (Zipf); a fifth repeat another with 0 to 5 words replaced.

    Originals stand at even places, copies at odd ones. Batches are made anew whenever they are asked for, so that the
    corpus takes no memory.
    """

    def __init__(self, documents: int, seed: int) -> None:
        self._documents, self._seed = documents, seed
        letters = np.random.default_rng(seed).integers(97, 123, (VOCABULARY, 7), np.uint8)
        self._words = letters.view("S7").ravel().astype(str)

    def batches(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Texts, and beside them their similarity to the original they repeat; 0 for an original."""
        for start in range(0, self._documents, BATCH):
            batch = start // BATCH
            ids, rng = self._originals(batch)
            copies = 1 + 2 * np.flatnonzero(rng.random(BATCH // 2) < 2 * PLANTED)
            sources = self._originals(int(rng.integers(batch + 1)))[0][copies - 1]
            similarity = np.zeros(BATCH)
            for copy, source in zip(copies.tolist(), sources, strict=True):
                ids[copy] = source
                ids[copy, rng.integers(0, WORDS, rng.integers(0, EDITS + 1))] = rng.integers(VOCABULARY)
                similarity[copy] = _similarity(source, ids[copy])
            count = min(BATCH, self._documents - start)
            yield [" ".join(words) for words in self._words[ids[:count]].tolist()], similarity[:count]

    def _originals(self, batch: int) -> tuple[np.ndarray, np.random.Generator]:
        rng = np.random.default_rng((self._seed, batch))
        return rng.zipf(1.2, (BATCH, WORDS)) % VOCABULARY, rng


def _similarity(one: np.ndarray, two: np.ndarray) -> float:
    first, second = ({tuple(ids[at : at + WIDTH]) for at in range(WORDS - WIDTH + 1)} for ids in (one, two))
    return len(first & second) / len(first | second)


def measure(corpus: Corpus, threshold: float, folder: Path) -> dict[str, str]:
    """Sketches the corpus and removes its duplicates; making the texts is not timed."""
    sketches, planted, sketching = Sketches(folder, threshold=threshold, width=WIDTH), [], 0.0
    for texts, similarity in corpus.batches():
        sketching += _timed(lambda texts=texts: sketches.add(texts))
        planted.append(similarity)
        _tell(len(sketches))
    everything, found = range(len(sketches)), np.zeros(len(sketches), bool)

    def search() -> None:
        for match in sketches.near(everything, everything, progress=_tell):
            found[match.document] = True

    searching = _timed(search)
    truth = np.concatenate(planted)
    near = truth >= threshold
    edge = near & (truth < threshold + 0.1)
    return {
        "documents": f"{len(sketches):,} synthetic, {WORDS} words, {int((truth > 0).sum()):,} copies planted",
        "bands x rows": f"{sketches.bands} x {sketches.rows} at a threshold of {threshold}",
        "sketching": f"{sketching:.1f} s",
        "searching": f"{searching:.1f} s",
        "speed": f"{len(sketches) / (sketching + searching):,.0f} documents/s",
        "peak memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB",
        "disk": f"{sum(path.stat().st_size for path in folder.iterdir()) / 2**30:.2f} GiB",
        "recall": _ratio(found & near, near),
        f"recall below {threshold + 0.1:.2f}": _ratio(found & edge, edge),
        "precision": _ratio(found & near, found),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> str:
    return f"{part.sum() / max(1, whole.sum()):.5f} ({int(part.sum()):,} of {int(whole.sum()):,})"


def _tell(done: int) -> None:
    sys.stderr.write(f"\r{done:,} documents done ")


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def against_datasketch(texts: list[str], threshold: float) -> str:
    """How many times longer datasketch takes for the same texts, sketching and searching, without verifying."""
    if find_spec("datasketch") is None:
        return "not installed"
    from datasketch import MinHash, MinHashLSH

    def theirs() -> None:
        index = MinHashLSH(threshold=threshold, num_perm=128)
        for number, text in enumerate(texts):
            words = text.split()
            sketch = MinHash(num_perm=128)
            sketch.update_batch([" ".join(words[at : at + WIDTH]).encode() for at in range(WORDS - WIDTH + 1)])
            if not index.query(sketch):
                index.insert(number, sketch)

    def ours() -> None:
        with TemporaryDirectory() as folder:
            sketches = Sketches(Path(folder), threshold=threshold, width=WIDTH)
            everything = sketches.add(texts)
            list(sketches.near(everything, everything))

    return f"{_timed(theirs) / _timed(ours):.1f} times our time on {len(texts):,} documents"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    corpus = Corpus(options.documents, options.seed)
    with TemporaryDirectory() as folder:
        figures = measure(corpus, options.threshold, Path(folder))
    figures["datasketch"] = against_datasketch(next(corpus.batches())[0][:5000], options.threshold)
    sys.stderr.write("\n")
    sys.stdout.writelines(f"{name:<18}{figure}\n" for name, figure in figures.items())


if __name__ == "__main__":
    main()
