"""Counts, FLOPs and losses as people write them: 70M, 1.4e9, 1,400,000,000, 300 B tokens, 3.2 PF-days, 2.1 bits."""

import math
import re

PF_DAY = 8.64e19  # FLOPs: 1e15 a second for a day (Kaplan et al. 2020)
SCALES = {
    **dict.fromkeys(("k", "thousand", "thousands"), 1e3),
    **dict.fromkeys(("m", "mn", "mio", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "billion", "billions"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 1e12),
    **dict.fromkeys(("p", "q", "quadrillion", "quadrillions"), 1e15),
}
PREFIXES = {
    "kilo": 1e3, "mega": 1e6, "giga": 1e9, "tera": 1e12, "peta": 1e15, "exa": 1e18, "zetta": 1e21, "yotta": 1e24,
    "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24,
}  # fmt: skip
NATS = {"nat": 1.0, "nats": 1.0, "bit": math.log(2), "bits": math.log(2)}
FORMATS = {
    **dict.fromkeys(("fp64", "float64"), 64.0),
    **dict.fromkeys(("fp32", "float32"), 32.0),
    **dict.fromkeys(("fp16", "bf16", "float16", "bfloat16"), 16.0),
    **dict.fromkeys(("fp8", "int8"), 8.0),
    **dict.fromkeys(("fp4", "int4", "nf4"), 4.0),
}
EXAMPLES = {
    "N": "k, M, B, T, e6", "D": "k, M, B, T, e9", "U": "k, M, B, T, e9", "C": "e18, PFLOPs, PF-days", "L": "nats, bits",
}  # fmt: skip

_NOUNS = re.compile(r"(tokens?|toks?|params?|parameters?|flops?)$")
_POWER = re.compile(r"1?e(\d{1,2})")
_CELL = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>\d{1,3}(?:(?P<mark>[,_' ])\d{3})(?:(?P=mark)\d{3})*|\d*)(?P<rest>(?:\.\d*)?)"
    r"(?P<power>(?:e[+-]?\d{1,4})?)(?:\s*[x*]\s*10\s*(?:\^|\*\*)\s*(?P<ten>[+-]?\d{1,4}))?\s*(?P<unit>[^\W\d_].*|)",
    re.IGNORECASE,
)
_TEN = re.compile(r"10\s*(?:\^|\*\*)\s*(?P<ten>[+-]?\d{1,4})\s*(?P<unit>[^\W\d_].*|)", re.IGNORECASE)
_SURELY_DECIMAL = re.compile(r"[+-]?\d*,(\d{1,2}|\d{4,}|\d{3}(?=e))(e[+-]?\d+)?\s*[a-z]*", re.IGNORECASE)


def factor(symbol: str, text: str) -> float:
    """What one of a unit is in counts, FLOPs, nats or bits of precision. Raises ValueError for no unit of `symbol`."""
    unit = squash(text)
    if unit in ("", "1", "ones"):
        return 1.0
    if power := _POWER.fullmatch(unit):
        return 10.0 ** int(power[1])
    found = None
    if symbol == "L":
        found = NATS.get(re.sub(r"(per)?tok(en)?$", "", unit))
    elif symbol == "C":
        found = _flops(unit)
    elif symbol in ("N", "D", "U"):
        bare = _NOUNS.sub("", unit)
        found = SCALES.get(bare, None if bare else 1.0)
    elif symbol.startswith("P") and unit in ("bit", "bits"):
        found = 1.0
    if found is None:
        raise ValueError(f"{text!r} is no unit of {symbol}; give one of {EXAMPLES.get(symbol, 'bits')}, or 1")
    return found


def number(text: str, symbol: str = "", *, unit: float = 1.0, decimal_comma: bool = False) -> float:
    """A cell as a float, times `unit` unless it has a unit of its own; NaN and infinities as written.

    Thousands may be marked with a comma, an underscore, an apostrophe or a space; with `decimal_comma` comma and point
    change places. Raises ValueError for what is no number.
    """
    cell = text.strip().translate(_PLAIN)
    if cell.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return float(cell)
    if symbol.startswith("P") and (bits := FORMATS.get(cell.lower())):
        return bits
    cell = cell.translate(_SWAPPED) if decimal_comma else cell
    if ten := _TEN.fullmatch(cell):
        value, own = float(f"1e{ten['ten']}"), ten["unit"]
    else:
        found = _CELL.fullmatch(cell)
        if not found or not (found["whole"] or found["rest"].strip(".")):
            raise ValueError(f"{text!r} is no number")
        digits = re.sub(r"[,_' ]", "", found["whole"]) + found["rest"]
        value = float(found["sign"] + digits + found["power"]) * 10.0 ** max(-300, min(300, int(found["ten"] or 0)))
        own = found["unit"]
    if not own:
        return value * unit
    try:
        return value * factor(symbol, own)
    except ValueError as error:
        raise ValueError(f"{text!r} is no number: {error}") from None


def has_unit(text: str) -> bool:
    """Whether a cell ends in a unit, as 300B does and 3e11 does not."""
    found = _CELL.fullmatch(text.strip().translate(_PLAIN))
    return bool(found and found["unit"])


def surely_decimal(text: str, mark: str = ",") -> bool:
    """Whether the comma (or another mark) of a cell can only be a decimal one: 2,35 or 2,3518, but not 2,351."""
    cell = text.strip()
    return cell.count(mark) == 1 and bool(_SURELY_DECIMAL.fullmatch(cell.replace(mark, ",")))


def squash(text: str) -> str:
    """The letters and digits of a name or unit in lower case: `Training Tokens (B)` gives `trainingtokensb`."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"10\s*(?:\^|\*\*)\s*", "1e", text.lower()))


def shown(value: float) -> str:
    """A count for people: 1.4 B, 70 M, 7.2e+20."""
    for scale, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if scale <= value < 1e15:
            return f"{value / scale:.4g} {name}"
    return f"{value:.4g}"


def _flops(unit: str) -> float | None:
    days = re.fullmatch(r"(.*?)f(?:lops?)?(?:s|persecond)?days?", unit)
    stem = days[1] if days else re.sub(r"flops?$", "", unit)
    scale = 1.0 if not stem and unit != stem else PREFIXES.get(stem, None if days else SCALES.get(stem))
    return scale and (scale * 86400 if days else scale)


_PLAIN = str.maketrans({"−": "-", "×": "x", "’": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " "})  # noqa: RUF001
_SWAPPED = str.maketrans(",.", ".,")
