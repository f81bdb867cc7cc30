"""Measures validation with Great Expectations against the same checks written directly with pyarrow: time and memory.

python benchmarks/validation.py --rows 1000000

Each measurement has an interpreter of its own; the two ways take turns, and ratios are of medians.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

WORDS = (6, 18)  # of a row
PLANTED = 0.02  # of the rows break a rule, all rules alike
APPENDED = {
    "no_replacement_characters": "a bad \ufffd byte",
    "no_control_characters": "a \x07 bell",
    "no_mojibake": "the cafÃ© that was here",
    "no_invisible_text": "a zero\u200bwidth space",
    "no_template_markers": "<|im_start|>user",
    "no_secrets": f"token ghp_{'a1B2' * 9}",
    "no_card_numbers": "4111 1111 1111 1111",
    "no_iban": "DE89 3704 0044 0532 0130 00",
    "no_email": "jane.doe@example.org",
    "no_phone": "call (650) 253-0000",
    "little_profanity": "bullshit",
    "little_repetition": "again and again and " * 30,
}
REPLACED = {
    "text_not_null": None,
    "text_not_blank": " \u200b ",
    "expected_script": "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "mostly_letters": "{[(<>)]} ... *** ;;; --- +++ === %%%",
}
REPEATED = {"no_copy": "text", "id_is_unique": "id"}
WARNINGS = {"no_invisible_text", "little_profanity", "expected_script", "mostly_letters", "id_is_unique"}


def write(path: Path, rows: int, seed: int) -> Counter[str]:
    """Rows of 6 to 18 consecutive words of articles, speeches and dialogues; returns how many defects of each kind."""
    rng, words = random.Random(seed), list(_words())
    defects = [*APPENDED, *REPLACED, *REPEATED]
    planted: Counter[str] = Counter()
    before: dict[str, Any] = {}
    with path.open("wb") as file:
        for number in range(rows):
            start = rng.randrange(len(words) - WORDS[1])
            row = {"id": f"row-{number}", "text": " ".join(words[start : start + rng.randint(*WORDS)])}
            if before and rng.random() < PLANTED:
                defect = rng.choice(defects)
                planted[defect] += 1
                row |= _changed(row, defect, before)
            else:
                before = row
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return planted


def _words() -> Iterator[str]:
    from tasks import encyclopaedia
    from tasks.cut import Cut

    cut = Cut(seed=1, limit=0, prompt_words=45, passage_words=200, docstrings=0)
    for file, row in encyclopaedia.read(("en",), cut):
        if file == "text":
            yield from row["text"].split()


def _changed(row: dict[str, Any], defect: str, before: dict[str, Any]) -> dict[str, Any]:
    if defect in APPENDED:
        return {"text": f"{row['text']} {APPENDED[defect]}"}
    if defect in REPLACED:
        return {"text": REPLACED[defect]}
    return {REPEATED[defect]: before[REPEATED[defect]]}


def with_suite(path: Path) -> dict[str, Any]:
    from tasks.suites import Bounds
    from tasks.validate import examine

    report = examine(path, "text", Bounds())
    failed = {entry["name"]: entry["failed"] for entry in report["expectations"] if entry["applicable"]}
    failed.pop("not_in_held_out")  # one file has one side
    return {"rows": report["rows"], "kept": report["kept"], "failed": failed}


def directly(path: Path) -> dict[str, Any]:
    """The same facts of whole columns, then masks and counts: neither lines, examples nor reasons."""
    import numpy as np
    import pyarrow.compute as pc
    from pyarrow import json as pa_json

    table = pa_json.read_json(path, pa_json.ReadOptions(block_size=1 << 24))
    masks = {name: np.asarray(pc.fill_null(mask, False)) for name, mask in _masks(table["text"], table["id"]).items()}
    broken = np.logical_or.reduce([mask for name, mask in masks.items() if name not in WARNINGS])
    failed = {"has_rows": int(not table.num_rows), **{name: int(mask.sum()) for name, mask in masks.items()}}
    return {"rows": table.num_rows, "kept": int((~broken).sum()), "failed": failed}


def _masks(text: Any, ids: Any) -> dict[str, Any]:
    """Which rows break which rule of the text suite."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    from models import privacy, quality

    content = pc.fill_null(text, "")
    characters, tokens = quality.characters(content), quality.pretokens(content)
    return {
        "id_is_unique": pa.array(pd.Series(quality.hashes(ids)).duplicated()),
        "text_not_null": pc.is_null(text),
        "text_not_blank": quality.blank(text),
        "no_replacement_characters": quality.replacement(content),
        "no_control_characters": quality.control(content),
        "no_mojibake": quality.mojibake(content),
        "no_invisible_text": quality.invisible(content),
        "no_template_markers": quality.markers(content),
        "no_secrets": privacy.secret(content),
        "no_card_numbers": privacy.card(content),
        "no_iban": privacy.iban(content),
        "no_email": privacy.email(content),
        "no_phone": privacy.phone(content),
        "little_profanity": quality.profane(content),
        "characters_in_range": pc.or_(pc.less(characters, 1), pc.greater(characters, 200_000)),
        "tokens_in_range": pc.or_(pc.less(tokens, 1), pc.greater(tokens, 50_000)),
        "little_repetition": pc.greater(quality.repetition(content), 0.5),
        "expected_script": pc.greater(quality.foreign(content), 0.5),
        "mostly_letters": pc.less(quality.letters(content), 0.5),
        "no_copy": pa.array(pd.Series(quality.hashes(content, fold=True)).duplicated()),
    }


WAYS = {
    "suite": (with_suite, ("great_expectations", "pandas", "models.quality", "models.privacy", "tasks.validate")),
    "direct": (directly, ("pandas", "pyarrow.compute", "models.quality", "models.privacy")),
}


def measure(way: str, path: Path) -> dict[str, Any]:
    """What one way finds, in a process that does nothing else, with its times and its peak memory in bytes."""
    work, modules = WAYS[way]
    start = time.perf_counter()
    for module in modules:
        import_module(module)
    imported, used = time.perf_counter(), time.process_time()
    found = work(path)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "found": found,
        "import": imported - start,
        "seconds": time.perf_counter() - imported,
        "cpu": time.process_time() - used,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def _apart(way: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", way, "--file", str(path)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def compare(path: Path, repeats: int) -> dict[str, list[dict[str, Any]]]:
    """All measurements of each way, which take turns. Asserts that all of them find the same."""
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(repeats):
        for way, measured in runs.items():
            measured.append(_apart(way, path))
            sys.stderr.write(f"{number + 1}/{repeats} {way:<8}{measured[-1]['seconds']:.1f} s\n")
            assert measured[-1]["found"] == runs["suite"][0]["found"], (
                measured[-1]["found"],
                runs["suite"][0]["found"],
            )
    return runs


def report(runs: dict[str, list[dict[str, Any]]], planted: Counter[str]) -> Iterator[str]:
    """The table, line by line."""
    found = runs["suite"][0]["found"]
    assert all(found["failed"][name] >= count for name, count in planted.items()), (found, planted)
    middle = {
        way: {name: statistics.median(run[name] for run in measured) for name in ("seconds", "cpu", "import", "memory")}
        for way, measured in runs.items()
    }
    yield f"{found['rows']:,} rows, {found['rows'] - found['kept']:,} broken, {planted.total():,} defects planted"
    yield f"{'':<8}{'seconds':>9}{'ratio':>7}{'CPU s':>8}{'ratio':>7}{'rows/s':>10}{'import s':>10}{'peak GiB':>10}"
    for way, figures in middle.items():
        wall, cpu = (figures[name] / middle["direct"][name] for name in ("seconds", "cpu"))
        yield (
            f"{way:<8}{figures['seconds']:>9.1f}{wall:>7.2f}{figures['cpu']:>8.1f}{cpu:>7.2f}"
            f"{found['rows'] / figures['seconds']:>10,.0f}{figures['import']:>10.1f}{figures['memory'] / 2**30:>10.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(measure(options.measure, options.file)))
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        planted = write(path, options.rows, options.seed)
        runs = compare(path, options.repeats)
    sys.stdout.writelines(f"{line}\n" for line in report(runs, planted))


if __name__ == "__main__":
    main()
