"""Personal data and secrets in texts: which hold some, where it stands, and the texts without it.

Each kind has a hint, an expression that RE2 runs over whole arrays and Python over one text, and an exact rule that
looks only where the hint matches.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import phonenumbers
import pyarrow as pa
import pyarrow.compute as pc

from models.characters import Texts, slices
from models.quality import confirmed

REGIONS = ("US", "GB")  # whose national numbers are known without a country code
Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]

# By the names of gitleaks' rules (gitleaks.toml, v8); AWS, Hugging Face, OpenAI and Anthropic a little wider.
SECRETS = {
    "aws-access-token": r"(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
    "github-pat, -oauth, -app-token, -refresh-token": r"gh[pousr]_[0-9A-Za-z]{36,255}",
    "github-fine-grained-pat": r"github_pat_\w{82}",
    "gitlab-pat": r"glpat-[\w-]{20,40}",
    "slack-bot-token and its kin": r"xox[abeoprs]-(?:\d-)?[0-9A-Za-z]{8,}(?:-[0-9A-Za-z]{8,})+",
    "slack-webhook-url": r"(?:https?://)?hooks\.slack\.com/(?:services|workflows|triggers)/[\w+/]{43,56}",
    "gcp-api-key": r"AIza[\w-]{35}",
    "huggingface-access-token": r"hf_[A-Za-z0-9]{34}",
    "openai-api-key": r"sk-(?:(?:proj|svcacct|admin)-[\w-]{20,200}|[A-Za-z0-9]{48})",
    "anthropic-api-key": r"sk-ant-[\w-]{20,120}",
    "stripe-access-token": r"[rs]k_(?:live|test|prod)_[A-Za-z0-9]{10,99}",
    "npm-access-token": r"npm_[A-Za-z0-9]{36}",
    "jwt": r"ey[A-Za-z0-9]{17,}\.ey[\w/-]{17,}\.[\w/-]{10,}={0,2}",
}
_KEY_HEADER = r"-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY(?: BLOCK)?-----"
_ASSIGNED = (  # generic-api-key
    r"(?i:passw(?:or)?d|passphrase|pwd|secret|token|credential|(?:api|access|auth|private|account)[_-]?key)[\w-]{0,20}"
    r"""["'\]]{0,2}\s{0,4}(?:=>|:=|=|:)\s{0,4}["'`]?([^\s"'`<>(){}\[\],;]{12,150})"""
)
_TOKEN = rf"\b(?:{'|'.join(SECRETS.values())})"
_KEY_BLOCK = rf"{_KEY_HEADER}(?:[\s\S]{{0,20000}}?-----END[ A-Z0-9_-]{{0,100}}-----|(?:\s*[A-Za-z0-9+/=]{{40,}})*)"
# Letters with their accents, but not of scripts that write without spaces around an address.
_ALNUM = "A-Za-z0-9À-ɏ"
# Neither `git@host.org:path`, `logo@2x.png`, `package@1.2.0-beta.rc`, `x@self.weight` nor a call, `x@np.ones(3)`.
_EMAIL = (
    rf"(?<![{_ALNUM}_])(?<![{_ALNUM}_][.%+-])(?!(?:git|this)@)[{_ALNUM}_][{_ALNUM}._%+'-]{{0,63}}@(?!\d+\.\d|self\.)"
    rf"(?:[{_ALNUM}][{_ALNUM}-]{{0,62}}\.)+(?!(?:png|jpe?g|gif|svg|webp|css|js|py|html?)\b)[A-Za-z]{{2,24}}"
    rf"(?![{_ALNUM}_(@]|-[{_ALNUM}])"
)
_CARD = r"(?<![\w.+-])(?:\d{14,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{4,5})(?![\w-]|\.\d)"
# ISO/IEC 7812: Visa, Mastercard, American Express, Discover, Diners Club, JCB, UnionPay. Visa's old numbers of 13
# digits are left out: European and Japanese bar codes look the same.
_ISSUER = (
    r"4(?:\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
# SWIFT's IBAN registry: country and length.
_IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        "([A-Z]{2})([0-9]{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 "
        "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 "
        "LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 "
        "SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20",
    )
}
_BETWEEN = "[ \u00a0().\\-/\u2010-\u2015]{0,3}"  # the digits of a phone number
_DATE = r"\b[12]\d{3}([-./])\d{1,2}\1\d{1,2}\b|\b\d{1,2}([-./])\d{1,2}\2[12]\d{3}\b"
_NUMBER = r"\(?(?:\d+|\d{1,3}\.\d{5,}|[12]\d{3}\D[12]\d{3})\)?"  # a run of digits, a decimal fraction, two years
_CALL = r"(?i)(?:tel|phone|call|mobile|cell|fax|dial|text|sms|whatsapp|contact|ring)\b[^\n\d]{0,16}$"


@dataclass(frozen=True)
class Match:
    """Where a piece of personal data or a secret stands: `text[start:end]`."""

    kind: str
    start: int
    end: int


def email(texts: Texts) -> pa.BooleanArray:
    """Whether the text holds an e-mail address."""
    return _holds(texts, "email", REGIONS)


def phone(texts: Texts, regions: Sequence[str] = REGIONS) -> pa.BooleanArray:
    """Whether the text holds a phone number: with "+" and country code, or as written within one of the regions.

    libphonenumber's STRICT_GROUPING, that is a valid number in groups its region writes; a bare run of digits counts
    only after a word such as "call". Raises ValueError for a region that libphonenumber does not know.
    """
    return _holds(texts, "phone", regions)


def card(texts: Texts) -> pa.BooleanArray:
    """Whether the text holds the number of a payment card: an issuer's prefix and length, and Luhn's check digit."""
    return _holds(texts, "card", REGIONS)


def iban(texts: Texts) -> pa.BooleanArray:
    """Whether the text holds an IBAN: its country's length, and ISO 7064's check modulo 97."""
    return _holds(texts, "iban", REGIONS)


def secret(texts: Texts) -> pa.BooleanArray:
    """Whether the text holds an access key or token (`SECRETS`), a private key, or a random value for a password."""
    return _holds(texts, "secret", REGIONS)


def find(text: str, regions: Sequence[str] = REGIONS) -> list[Match]:
    """All that is found in one text, in order; where two overlap, secret before card, IBAN, e-mail and phone."""
    taken = bytearray(len(text))
    found = []
    for kind, (hint, spans) in _finders(tuple(regions)).items():
        for start, end in spans(text) if re.search(hint, text, re.ASCII) else ():
            if not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                found.append(Match(kind, start, end))
    return sorted(found, key=lambda match: match.start)


def scrub(texts: Texts, regions: Sequence[str] = REGIONS) -> tuple[Texts, Counter[str]]:
    """The texts with a placeholder ("[EMAIL]") for each find, in arrays of the same kind, and the finds by kind.

    What is scrubbed holds nothing that would be found; a text without a find keeps its bytes.
    """
    counts: Counter[str] = Counter()
    kind = pa.string() if pa.types.is_null(texts.type) else texts.type
    hint = "|".join(f"(?:{hint})" for hint, _ in _finders(tuple(regions)).values())
    pieces = []
    for piece in slices(texts):
        asked = pc.fill_null(pc.match_substring_regex(piece, hint), False)
        clean = [_without(text, tuple(regions), counts) for text in piece.filter(asked).to_pylist()]
        pieces.append(pc.replace_with_mask(piece, asked, pa.array(clean, pa.string())).cast(kind))
    scrubbed = pa.chunked_array(pieces, kind)
    return (scrubbed if isinstance(texts, pa.ChunkedArray) else scrubbed.combine_chunks()), counts


def _without(text: str, regions: tuple[str, ...], counts: Counter[str]) -> str:
    while found := find(text, regions):  # again: a placeholder may free the digits beside it
        counts.update(match.kind for match in found)
        for match in reversed(found):
            text = f"{text[: match.start]}[{match.kind.upper()}]{text[match.end :]}"
    return text


def _holds(texts: Texts, kind: str, regions: Sequence[str]) -> pa.BooleanArray:
    hint, spans = _finders(tuple(regions))[kind]
    return confirmed(texts, hint, lambda text: next(spans(text), None) is not None)


@functools.cache
def _finders(regions: tuple[str, ...]) -> dict[str, tuple[str, Finder]]:
    """For each kind its hint and its exact rule, the surest first."""
    hint = _phone_hint(regions)
    return {
        "secret": (f"{_TOKEN}|{_KEY_HEADER}|{_ASSIGNED}", _secrets),
        "card": (r"\d(?:[ -]?\d){13}", _cards),
        "iban": (r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11}", _ibans),
        "email": (r"@[^\s@]+\.[A-Za-z]{2}", _emails),
        "phone": (hint, functools.partial(_phones, regions=regions, hint=hint)),
    }


def _emails(text: str) -> Iterator[Span]:
    return (match.span() for match in re.finditer(_EMAIL, text))


def _secrets(text: str) -> Iterator[Span]:
    yield from (match.span() for match in re.finditer(_KEY_BLOCK, text))
    yield from (match.span() for match in re.finditer(_TOKEN, text, re.ASCII) if not match[0].endswith("EXAMPLE"))
    for match in re.finditer(_ASSIGNED, text, re.ASCII):
        if _is_random(match[1]) and text[match.end() : match.end() + 1] not in ("(", "[", "{", "<"):
            yield match.span(1)


def _is_random(value: str) -> bool:
    """At least 3.5 bits per character, as gitleaks asks for, and letters mixed with digits; no variable, no URL."""
    shares = [count / len(value) for count in Counter(value).values()]
    mixed = len(re.findall(r"(?=[A-Za-z]\d|\d[A-Za-z])", value)) > 1
    reference = re.match(r"[$%]|\w+://|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$", value)
    return mixed and not reference and -sum(share * math.log2(share) for share in shares) >= 3.5


def _cards(text: str) -> Iterator[Span]:
    for match in re.finditer(_CARD, text, re.ASCII):
        digits = re.sub(r"\D", "", match[0])
        if re.fullmatch(_ISSUER, digits) and _luhn(digits):
            yield match.span()


def _luhn(digits: str) -> bool:
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[-1::-2]))) % 10 == 0


def _ibans(text: str) -> Iterator[Span]:
    for country in re.finditer(r"(?<![A-Za-z0-9])[A-Z]{2}(?=\d{2})", text, re.ASCII):
        rest = _IBAN_LENGTHS.get(country[0], 2) - 2
        whole = re.compile(rf"..(?: ?[A-Z0-9]){{{rest}}}(?![A-Za-z0-9])").match(text, country.start())
        if whole and _modulo_97(whole[0].replace(" ", "")) == 1:
            yield whole.span()


def _modulo_97(iban: str) -> int:
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97


def _phones(text: str, regions: tuple[str, ...], hint: str) -> Iterator[Span]:
    """Looks with libphonenumber, which is slow, at the runs of digits alone and the character on either side."""
    text = re.sub(_DATE, lambda date: "x" * len(date[0]), text, flags=re.ASCII)
    for run, region in product(re.finditer(hint, text, re.ASCII), regions or (phonenumbers.UNKNOWN_REGION,)):
        before = max(0, run.start() - 1)
        near = text[before : run.end() + 1]
        for match in phonenumbers.PhoneNumberMatcher(near, region, leniency=phonenumbers.Leniency.STRICT_GROUPING):
            start, end = before + match.start, before + match.end
            if not re.fullmatch(_NUMBER, match.raw_string) or re.search(_CALL, text[max(0, start - 32) : start]):
                yield start, end


def _phone_hint(regions: tuple[str, ...]) -> str:
    """Seven digits after "+" or a leading zero, else as many as the regions' shortest number has."""
    unknown = sorted(set(regions) - phonenumbers.SUPPORTED_REGIONS)
    if unknown:
        raise ValueError(
            f"region is {unknown[0]!r}, it must be an ISO 3166 code such as 'US' that libphonenumber knows"
        )
    plans = map(phonenumbers.PhoneMetadata.metadata_for_region, regions)
    kinds = [kind for plan in plans if plan for kind in (plan.fixed_line, plan.mobile) if kind]
    lengths = [length for kind in kinds for length in kind.possible_length]
    least = max(7, min(lengths, default=15))
    return "[+\uff0b][ (]?" rf"\d(?:{_BETWEEN}\d){{6,}}|\b0(?:{_BETWEEN}\d){{6,}}|\d(?:{_BETWEEN}\d){{{least - 1},}}"
