"""Which column of a table holds which quantity, by the names and units that people give to it."""

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from models.units import factor, squash

MEANINGS = {
    "L": "loss in nats per token", "N": "parameters", "D": "training tokens", "C": "training FLOPs",
    "U": "unique tokens", "epochs": "passes over the data",
    "Pw": "bits of the weights", "Pa": "bits of the activations", "Pkv": "bits of the KV cache",
}  # fmt: skip
# By symbol, the names in order of preference: of two names in one group neither is better.
NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "L": (
        ("valloss", "evalloss", "validationloss", "evaluationloss", "testloss", "heldoutloss", "devloss",
         "finalvalloss", "finalevalloss", "finalvalidationloss", "finaltestloss", "bestvalloss", "lossval", "losseval"),
        ("loss", "l", "finalloss", "losses", "crossentropy", "crossentropyloss", "celoss", "xent", "nll", "lmloss"),
        ("trainloss", "trainingloss", "finaltrainloss", "finaltrainingloss", "losstrain", "smoothedtrainloss"),
    ),
    "N": (
        ("n", "params", "param", "parameters", "parameter", "nparams", "nparameters", "numparams", "numparameters",
         "paramcount", "parametercount", "numberofparameters", "numberofparams", "modelparams", "modelparameters",
         "totalparams", "totalparameters", "paramstotal", "parameterstotal", "nparamstotal", "ntotal", "totaln",
         "nparam", "numparam"),
        ("modelsize", "size", "trainableparams", "trainableparameters"),
    ),
    "N without embeddings": (
        ("nonembedding", "nnonembedding", "nonembeddingn", "nonembeddingparams", "nonembeddingparameters",
         "paramsnonembedding", "parametersnonembedding", "nparamsnonembedding", "numparamsnonembedding", "nonembparams",
         "paramsnonemb", "nnonemb", "nonemb", "nparamsnonemb", "paramswithoutembedding", "paramswithoutembeddings",
         "parameterswithoutembeddings", "nwithoutembeddings", "nonembeddingsize", "nonembeddingmodelsize"),
    ),
    "D": (
        ("d", "tokens", "token", "ntokens", "numtokens", "numberoftokens", "traintokens", "trainingtokens",
         "tokensseen", "seentokens", "totaltokens", "tokencount", "tokenstrained", "trainedtokens", "numtraintokens",
         "tokenstotal", "numtrainingtokens", "ntraintokens", "ntrainingtokens", "tokensprocessed", "consumedtokens"),
        ("datasetsize", "datasize"),
    ),
    "C": (
        ("c", "flops", "flop", "compute", "trainingflops", "trainingflop", "trainflops", "trainflop", "totalflops",
         "totalflop", "trainingcompute", "traincompute", "totalcompute", "nflops", "numflops", "flopstotal",
         "computeflops", "computeflop", "flopcount"),
        ("computebudget", "flopsbudget", "flopbudget", "budget", "isoflop", "isoflops", "isoflopbudget"),
    ),
    "U": (
        ("u", "ud", "uniquetokens", "tokensunique", "nuniquetokens", "numuniquetokens", "uniquetraintokens",
         "uniquetrainingtokens", "uniquedata", "datasettokens"),
    ),
    "epochs": (("epochs", "epoch", "nepochs", "numepochs", "numberofepochs", "passes"),),
    "Pw": (("pw", "weightbits", "bitsweights", "weightprecision", "precisionweights", "wbits", "weightsbits"),),
    "Pa": (("pa", "activationbits", "bitsactivations", "activationprecision", "actbits", "abits", "bitsa",
            "activationsbits", "precisionactivations"),),
    "Pkv": (("pkv", "kvbits", "bitskv", "kvprecision", "kvcachebits", "kvcacheprecision", "bitskvcache"),),
}  # fmt: skip
RUN_NAMES = ("run", "runid", "runname", "name", "id", "model", "modelname", "label", "experiment")
NO_LOSS = {
    "perplexity": "a perplexity is no loss: add a column with its natural logarithm, loss = ln(perplexity)",
    "ppl": "a perplexity is no loss: add a column with its natural logarithm, loss = ln(ppl)",
    "bpb": "bits per byte are not per token, and how many bytes a token has depends on the tokenizer: "
    "loss = bpb * ln 2 * (bytes per token)",
    "bitsperbyte": "bits per byte are not per token, and how many bytes a token has depends on the tokenizer: "
    "loss = bits * ln 2 * (bytes per token)",
    "bpc": "bits per character are not per token: loss = bpc * ln 2 * (characters per token)",
    "bitspercharacter": "bits per character are not per token: loss = bits * ln 2 * (characters per token)",
    "accuracy": "an accuracy is no loss; a scaling law of this kind needs the cross-entropy",
}
TRACKED = re.compile(r"^\s*(params|metrics|config|summary)[./](?=.)")  # MLflow's and W&B's before a name
HELD_OUT = re.compile(r"^(final|best)?(val|eval|validation|evaluation|test|heldout|dev|train|training)")


class Column(NamedTuple):
    """A column of the table: the symbol it holds, how good its name is (0 best), and the unit in its name."""

    header: str
    symbol: str
    rank: int = 0
    unit: str = ""


def recognised(header: str) -> Column | None:
    """What a header says, alone or with a unit before or behind: `tokens (B)`, `params_M`, `billion tokens`."""
    bare = re.sub(TRACKED, "", header)
    words = re.findall(r"[a-z0-9]+", re.sub(r"10\s*\^\s*", "1e", _parted(bare)))
    words = [word for word in words if word not in ("in", "x")]
    name = "".join(words)
    if name in _KNOWN:
        return Column(header, *_KNOWN[name])
    for cut in range(len(words) - 1, 0, -1):
        for first, second in ((words[:cut], words[cut:]), (words[cut:], words[:cut])):
            if found := _with_unit(header, "".join(first), " ".join(second)):
                return found
    if name[:1] in ("k", "m", "b", "t") and (found := _with_unit(header, name[1:], name[0])):
        return found
    return Column(header, "C", 0, name) if re.search(r"flops?|days?", name) and _is_unit("C", name) else None


def chosen(
    headers: Sequence[str], needed: Sequence[str], overrides: Mapping[str, str], count: str = ""
) -> tuple[dict[str, Column], tuple[str, ...]]:
    """One column per symbol, and what was assumed. `count` is `total`, `non-embedding` or empty: total where there is.

    Raises ValueError for two columns that say the same `needed` thing, or an override that names no column.
    """
    named = {symbol: _overriding(symbol, name, headers) for symbol, name in overrides.items()}
    taken = {column.header for column in named.values()}
    found = [column for header in headers if header not in taken and (column := recognised(header))]
    notes: list[str] = []
    picked: dict[str, Column] = {}
    for symbol in NAMES:
        candidates = sorted((column for column in found if column.symbol == symbol), key=lambda column: column.rank)
        if symbol in named or not candidates:
            continue
        best, *equal = [column for column in candidates if column.rank == candidates[0].rank]
        if not equal:
            picked[symbol] = best
            notes += _passed_over(symbol, candidates)
        elif symbol.split()[0] in needed:
            raise ValueError(_ambiguous(symbol.split()[0], [column.header for column in (best, *equal)]))
    picked |= named
    _count_parameters(picked, count, "N" in named, notes)
    return picked, tuple(notes)


def missing(symbol: str, headers: Sequence[str]) -> str:
    """What to say where no column holds a symbol: the names it may have, the columns there are, the remedy."""
    refused = [why for header in headers if symbol == "L" and (why := no_loss(header))]
    if refused:
        return f"no column holds L ({MEANINGS['L']}), and {refused[0]}"
    names = ", ".join(_SPELLED[symbol])
    there = ", ".join(map(repr, headers[:12])) + (f" and {len(headers) - 12} more" if len(headers) > 12 else "")
    hint = f"--column {symbol}={shlex.quote(_likely(symbol, headers) or 'NAME')}"
    return (
        f"no column holds {symbol} ({MEANINGS[symbol]}): it may be called {names}. "
        f"The table has {there}; say which with {hint}"
    )


def no_loss(header: str) -> str:
    """Why a column cannot be the loss, or nothing."""
    name = squash(header)
    plain = HELD_OUT.sub("", name)
    return next((f"{header!r} will not do: {why}" for key, why in NO_LOSS.items() if key in (name, plain)), "")


def run_column(headers: Sequence[str], override: str = "") -> str:
    """The column that names the runs, or nothing."""
    if override:
        return _exact("run", override, headers)
    names = {squash(header): header for header in reversed(headers)}
    return next((names[name] for name in RUN_NAMES if name in names), "")


def _likely(symbol: str, headers: Sequence[str]) -> str:
    """The column that most looks like a symbol, or nothing."""
    names = [name for group in NAMES[symbol] for name in group if len(name) > 3]
    headers = [header for header in headers if not recognised(header)]
    within = [header for header in headers if any(name in squash(header) for name in names)]
    close = [header for header in headers if difflib.get_close_matches(squash(header), names, 1, 0.8)]
    return (within + close + [""])[0]


def _ambiguous(symbol: str, headers: Sequence[str]) -> str:
    return (
        f"the columns {' and '.join(map(repr, headers))} may each be {symbol} ({MEANINGS[symbol]}); "
        f"say which: --column {symbol}={shlex.quote(headers[0])}"
    )


def _passed_over(symbol: str, candidates: Sequence[Column]) -> list[str]:
    best, *others = candidates
    if not others:
        return []
    why = "the loss on held-out text goes first" if symbol == "L" and not best.rank else "it has the plainer name"
    return [f"{symbol} is the column {best.header!r}, not {' or '.join(repr(each.header) for each in others)}: {why}"]


def _count_parameters(picked: dict[str, Column], count: str, named: bool, notes: list[str]) -> None:
    bare = picked.pop("N without embeddings", None)
    if named or not (bare or count):
        return
    if count == "non-embedding" and bare is None:
        raise ValueError(
            "no column holds N without embeddings: it may be called N_non_embedding or params (non-embedding); "
            "name one with --column N=NAME, or leave out --count"
        )
    if count == "total" and "N" not in picked:
        raise ValueError("no column holds all parameters; leave out --count total to take those without embeddings")
    if bare and (count == "non-embedding" or "N" not in picked):
        picked["N"] = bare
    elif bare:
        notes.append(
            f"N is the column {picked['N'].header!r}; --count non-embedding would take {bare.header!r} in its place"
        )


def _overriding(symbol: str, name: str, headers: Sequence[str]) -> Column:
    if symbol not in MEANINGS:
        raise ValueError(f"{symbol!r} is no symbol of a column; there are {', '.join(MEANINGS)}")
    header = _exact(symbol, name, headers)
    own, behind = recognised(header), re.search(r"[(\[]([^)\]]*)[)\]]\s*$", header)
    if own and own.symbol.split()[0] == symbol:
        return own
    unit = behind[1] if behind and _is_unit(symbol, behind[1]) else ""
    return Column(header, symbol, 0, unit)


def _exact(symbol: str, name: str, headers: Sequence[str]) -> str:
    exact = [header for header in headers if header == name] or [
        header for header in headers if squash(header) == squash(name)
    ]
    if not exact:
        raise ValueError(f"--column {symbol}={name}: no such column; the table has {', '.join(map(repr, headers))}")
    return exact[0]


def _with_unit(header: str, name: str, unit: str) -> Column | None:
    symbol, rank = _KNOWN.get(name, ("", 0))
    return Column(header, symbol, rank, unit) if symbol and _is_unit(symbol, unit) else None


def _is_unit(symbol: str, text: str) -> bool:
    if not squash(text) or squash(text) == "1":
        return False
    try:
        return bool(factor(symbol.split()[0], text))
    except ValueError:
        return False


def _parted(header: str) -> str:
    """Lower case, with a space where a capital follows a small letter: tokensB gives tokens b."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", header).lower()


_KNOWN = {
    name: (symbol, rank) for symbol, groups in NAMES.items() for rank, group in enumerate(groups) for name in group
}
_SPELLED = {
    "L": ("loss", "val_loss", "eval_loss", "loss (bits)"), "N": ("N", "params", "parameters", "model_size"),
    "D": ("D", "tokens", "train_tokens", "tokens (B)"), "C": ("C", "flops", "training_flops", "compute (PF-days)"),
    "U": ("U", "unique_tokens", "or epochs"), "epochs": ("epochs", "n_epochs"), "Pw": ("Pw", "weight_bits"),
    "Pa": ("Pa", "activation_bits"), "Pkv": ("Pkv", "kv_bits"),
}  # fmt: skip
