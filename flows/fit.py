"""`evergreen fit`: its options, and what they ask of a table of runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import fit_table
from tasks.errors import UsageError

Rows = list[tuple[str, str]]
MOST = 1e40  # of any amount, as in the table
LEAST_DELTA = 1e-9  # below it Huber's loss is that of lad, and its arithmetic ends
ESTIMATORS = ("huber", "lad", "least-squares", "quantile")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", metavar="RUNS", nargs="?", help="CSV or JSON, a line for each run; - for standard input"
    )
    parser.add_argument("--laws", action="store_true", help="list the forms that a law can have, and end")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    parser.add_argument("--plots", metavar="FOLDER", default="", help="write pictures of the fit there")
    _fit_options(parser.add_argument_group("the fit"))
    _table_options(parser.add_argument_group("the table"))
    _plan_options(parser.add_argument_group("what to ask of the law (amounts as in 70M, 300B, 5.76e23)"))


def fit(options: argparse.Namespace) -> tuple[Any, Rows]:
    """What `--json` prints, and the lines of the table. Raises UsageError for what cannot be read or answered."""
    if options.laws:
        laws = _laws()
        return laws, fit_table.laws(laws)
    if not options.runs:
        raise UsageError("give a table with a line for each run: evergreen fit runs.csv; or see the forms with --laws")
    from models.runs import Reading
    from tasks import law_fit, runs_table

    asked = _request(options)
    how = Reading(
        needed=law_fit.needed(options.law),
        columns=_pairs("--column", options.column, ("run",)),
        units=_pairs("--unit", options.unit),
        count=options.count,
        drop_invalid=options.drop_invalid,
    )
    found = law_fit.answer(runs_table.read(options.runs, how), asked)
    return found, fit_table.rows(found)


def _fit_options(group: Any) -> None:
    group.add_argument("--law", metavar="NAME", default="chinchilla",
                       help="its form; best: the one that forecasts best; isoflop, envelope: the best N and D without "
                            "a law (default: %(default)s)")  # fmt: skip
    group.add_argument("--estimator", choices=ESTIMATORS, default="", help="what is minimised (default: huber)")
    group.add_argument("--delta", metavar="D", default="", help="where Huber's loss turns linear (default: 1e-3)")
    group.add_argument("--quantile", metavar="Q", default="", help="of --estimator quantile (default: 0.5)")
    group.add_argument("--prior", action="store_true", help="a weak prior on the exponents, for a dozen runs")
    group.add_argument(
        "--bootstrap", metavar="N", default="4000", help="resamples for the intervals (default: %(default)s)"
    )
    group.add_argument("--starts", metavar="N", default="", help="at least (default: 64; 512 for fewer than 50 runs)")
    group.add_argument("--seed", metavar="S", default="0", help="of the resamples (default: %(default)s)")


def _table_options(group: Any) -> None:
    group.add_argument("--column", metavar="SYMBOL=NAME", action="append", default=[],
                       help="which column is L, N, D, C, U, epochs, Pw, Pa, Pkv or run; repeatable")  # fmt: skip
    group.add_argument("--unit", metavar="SYMBOL=UNIT", action="append", default=[],
                       help="of a column, as in D=B, C=PF-days, L=bits; repeatable")  # fmt: skip
    group.add_argument("--count", choices=("total", "non-embedding"), default="",
                       help="which N to take where the table has both (default: total)")  # fmt: skip
    group.add_argument("--drop-invalid", action="store_true", help="leave out rows that cannot be used, and say which")


def _plan_options(group: Any) -> None:
    for option, metavar, text in (
        ("--compute", "C", "a budget of training FLOPs"),
        ("--gpu-hours", "H", "or hours of an accelerator, with --peak and --utilisation"),
        ("--money", "M", "or a sum, with --price as well"),
        ("--peak", "FLOPS", "peak FLOP/s of the accelerator, or its name, as in H100 SXM"),
        ("--utilisation", "U", "the share of the peak that training reaches, as in 0.4"),
        ("--price", "P", "of an hour of the accelerator"),
        ("--target-loss", "L", "what the cheapest model with this loss is"),
        ("--inference-tokens", "T", "tokens that the model will serve, beside its training"),
        ("--unique-tokens", "U", "tokens that there are, to be read more than once"),
    ):
        group.add_argument(option, metavar=metavar, default="", help=text)
    group.add_argument("--predict", metavar="N=...,D=...", action="append", default=[],
                       help="the loss of such a run; repeatable")  # fmt: skip


def _request(options: argparse.Namespace) -> Any:
    from tasks.law_fit import Request

    compute, price, notes = _budget(options)
    _check_frontier(options)
    if options.delta and options.estimator not in ("", "huber"):
        raise UsageError(f"--delta {options.delta} is of the estimator huber, not of {options.estimator}")
    if options.quantile and options.estimator != "quantile":
        raise UsageError(f"--quantile {options.quantile} needs --estimator quantile")
    return Request(
        law=options.law,
        estimator=options.estimator or "huber",
        delta=_delta(options.delta or "1e-3"),
        quantile=_amount("--quantile", options.quantile or "0.5"),
        prior=options.prior,
        draws=_whole("--bootstrap", options.bootstrap, 100, 1_000_000),
        starts=_whole("--starts", options.starts, 1, 100_000) if options.starts else None,
        seed=_whole("--seed", options.seed, 0, 2**63),
        compute=compute,
        price=price,
        target_loss=_loss(options.target_loss) if options.target_loss else None,
        inference_tokens=_tokens("--inference-tokens", options.inference_tokens),
        unique_tokens=_tokens("--unique-tokens", options.unique_tokens),
        predict=tuple(_point(text) for text in options.predict),
        plots=Path(options.plots).expanduser() if options.plots else None,
        notes=notes,
    )


def _check_frontier(options: argparse.Namespace) -> None:
    from tasks.frontier_fit import APPROACHES

    names = ("estimator", "delta", "quantile", "starts", "prior")
    if options.law in APPROACHES and (given := [name for name in names if getattr(options, name)]):
        raise UsageError(
            f"{' and '.join(map(_option, given))} cannot be used with --law {options.law}, which takes least squares "
            f"without starts: leave {'it' if len(given) == 1 else 'them'} out"
        )


def _budget(options: argparse.Namespace) -> tuple[float | None, Any, tuple[str, ...]]:
    """The FLOPs of whichever budget was given, what FLOPs cost, and how the one followed from the other."""
    given = [name for name in ("compute", "gpu_hours", "money") if getattr(options, name)]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(map(_option, given))} are budgets: give one of them")
    price = _price(options, given)
    if not given:
        return None, price, ()
    if given == ["compute"]:
        return _amount("--compute", options.compute, "C"), price, ()
    from models import budgets

    rates = {"peak_flops_per_second": price.peak, "utilisation": price.utilisation}
    if given == ["gpu_hours"]:
        hours = _amount("--gpu-hours", options.gpu_hours)
        compute = float(budgets.flops_of(hours, **rates))
        source = f"{hours:,.6g} hours"
    else:
        money = _amount("--money", options.money)
        compute = float(budgets.flops_of_money(money, price_per_gpu_hour=price.hourly, **rates))
        source = f"{money:,.6g} at {price.hourly:g} an hour"
    return compute, price, (
        f"the budget of {compute:.3g} FLOPs is {source} at {price.utilisation:.0%} of {price.peak:.3g} FLOP/s",
    )  # fmt: skip


def _price(options: argparse.Namespace, given: Sequence[str]) -> Any:
    """What FLOPs cost, if the options say it. Raises UsageError where a budget needs what they do not say."""
    required = {"gpu_hours": ("peak", "utilisation"), "money": ("price", "peak", "utilisation")}
    wanted = required.get(given[0], ()) if given else ()
    some = [name for name in ("peak", "utilisation", "price") if getattr(options, name)]
    wanted = wanted or (("peak", "utilisation") if some else ())
    absent = [_option(name) for name in wanted if not getattr(options, name)]
    if absent:
        raise UsageError(f"{' and '.join(map(_option, given or some))} cannot be used without {' and '.join(absent)}")
    if not some:
        return None
    from models.budgets import peak_flops
    from tasks.law_fit import Price

    try:
        peak = peak_flops(options.peak)
    except ValueError as error:
        peak = _amount("--peak", options.peak, "C", str(error))
    else_ = f"{options.utilisation!r} is no share; give one as in 0.4"
    utilisation = _amount("--utilisation", options.utilisation, "", else_)
    if utilisation > 1:
        raise UsageError(f"--utilisation {options.utilisation} is more than all of it; give a share, as in 0.4")
    return Price(peak, utilisation, _amount("--price", options.price) if options.price else None)


def _point(text: str) -> dict[str, float]:
    found = _pairs("--predict", text.split(","))
    return {symbol: _amount(f"--predict {symbol}", value, symbol) for symbol, value in found.items()}


def _pairs(option: str, words: Sequence[str], more: Sequence[str] = ()) -> dict[str, str]:
    """SYMBOL=VALUE words by symbol, whose case does not matter."""
    from models.run_columns import MEANINGS

    known = {symbol.lower(): symbol for symbol in (*MEANINGS, *more)}
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals or not value or name.lower() not in known:
            raise UsageError(f"{option} {word!r} is no SYMBOL=VALUE; the symbols are {', '.join(known.values())}")
        if known[name.lower()] in found:
            raise UsageError(f"{option} gives {name} twice: {found[known[name.lower()]]!r} and {value!r}")
        found[known[name.lower()]] = value
    return found


def _delta(text: str) -> float:
    value = _amount("--delta", text)
    if value < LEAST_DELTA:
        raise UsageError(f"--delta {text} is below {LEAST_DELTA:g}, where Huber's loss is --estimator lad: take that")
    return value


def _loss(text: str) -> float:
    from models.run_checks import LARGEST_LOSS

    value = _amount("--target-loss", text, "L")
    if value > LARGEST_LOSS:
        raise UsageError(
            f"--target-loss {text} is more than guessing among 200,000 tokens costs ({LARGEST_LOSS} nats per token): "
            "give a loss that a model can have, such as 2.2"
        )
    return value


def _tokens(option: str, text: str) -> float | None:
    return _amount(option, text, "D") if text else None


def _amount(option: str, text: str, symbol: str = "", else_: str = "") -> float:
    """A positive number as people write it."""
    from math import isfinite

    from models.units import number

    try:
        value = number(text, symbol)
    except ValueError as error:
        raise UsageError(f"{option}: {else_ or error}") from None
    if not isfinite(value) or value <= 0:
        raise UsageError(f"{option} {text} must be above 0 and finite")
    if value > MOST:
        raise UsageError(f"{option} {text} is more than any run can have: give {MOST:g} or less")
    return value


def _whole(option: str, text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UsageError(f"{option} {text!r} is no whole number from {least} to {most}")
    return int(text)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _laws() -> list[dict[str, Any]]:
    from models.laws import LAWS
    from tasks.frontier_fit import APPROACHES

    listed: dict[str, Any] = {**LAWS, **APPROACHES}
    return [
        {
            "law": name, "formula": law.formula, "source": law.source, "inputs": list(law.inputs),
            "coefficients": list(law.symbols),
        }
        for name, law in listed.items()
    ]  # fmt: skip
