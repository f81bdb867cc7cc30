import random
import string
from collections import Counter

import pyarrow as pa
import pytest

from models import privacy

# Put together here, so that no scanner takes this file for a leak; none of them was ever issued.
RUN = "".join(random.Random(4).choices(string.ascii_letters + string.digits, k=31))
KEYS = {
    "aws": "AKIA" + RUN[:16].upper(),
    "github": "ghp_" + RUN + "AbCd9",
    "github fine-grained": "github_" + "pat_" + (RUN * 3)[:82],
    "gitlab": "glpat-" + RUN[:20],
    "slack": "xox" + "b-" + "123456789012-" + RUN[:24],
    "slack webhook": "https://hooks.slack" + ".com/services/" + "T00000000/B00000000/" + RUN[:24],
    "google": "AI" + "za" + (RUN + RUN)[:35],
    "hugging face": "hf_" + (RUN + RUN)[:34],
    "openai": "sk-" + (RUN + RUN)[:48],
    "openai project": "sk-" + "proj-" + RUN + "_" + RUN,
    "anthropic": "sk-" + "ant-" + "api03-" + RUN + RUN,
    "stripe": "sk_" + "live_" + RUN[:24],
    "npm": "npm_" + (RUN + RUN)[:36],
    "jwt": ".".join(["ey" + "JhbGciOiJIUzI1NiJ9", "ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0", RUN]),
    "private key": "-----BEGIN RSA "
    + "PRIVATE KEY-----\n"
    + f"{RUN}{RUN}\n" * 3
    + "-----END RSA "
    + "PRIVATE KEY-----",
    "private key without an end": "-----BEGIN " + "PRIVATE KEY-----\n" + f"{RUN}{RUN}\n{RUN}{RUN}",
}
ASSIGNED = (
    'api_key = "{}"', "API_KEY={}", "password: {}", "'client_secret': '{}'", "SECRET_KEY => {};", "auth_token:={}",
    "db.password={} host=x",
)  # fmt: skip
NO_SECRET = (
    "The password: correcthorsebatterystaple", "password = os.environ['DB_PASSWORD_V2']",
    "token = tokenizer.encode2(text1)", "api_key=YOUR_API_KEY_GOES_HERE", "secret: ${VAULT_SECRET_1A2B}",
    "token=https://example.com/a1b2c3d4e5f6", "AKIA" + "IOSFODNN7EXAMPLE", "sk-circle-fade-dot-with-animation-delay",
    "hf_hub_download", "key: value", "AKIA", "password=hunter2", "the tokens: 1234567890123456",
    "token = self.config2.token2id", "ghp_short", "whisk-" + RUN * 2, "-----BEGIN PUBLIC KEY-----",
    "secretary: Alexandria Ocasio", "eyJust a word. eyJ", "num_tokens=100000000000",
)  # fmt: skip
EMAILS = (
    "ann@example.com", "a.b+c_d%e-f@sub-domain.example.co.uk", "O'Neil@example.org", "jürgen@müller.de", "X@Y.IO",
    "_me@example.net",
)  # fmt: skip
NO_EMAIL = (
    "git@github.com:user/repo.git", "logo@2x.png", "lodash@4.17.21", "react@18.0.0-rc.next", "x@np.ones(3)",
    "@handle.me", "meet @ noon", "a@b", "foo@bar.", "@Override public", "y = x@self.weight + b", "this@Activity.name",
    "user@localhost", "a@b.c", "grep '@module.name'",
)  # fmt: skip
PHONES = (
    "(212) 555-0123", "212-555-0123", "650.253.0000", "1-800-555-0199", "415 555 0123", "+1 650 253 0000",
    "+14155550123", "+44 20 7946 0018", "020 7946 0018", "(0161) 496 0000", "0161 496 0000", "+49 30 901820",
    "+33 1 23 45 67 89", "+91 98765 43210", "+44 (0)20 7946 0018", "001 212 555 0123",
)  # fmt: skip
NO_PHONE = (
    "1914-1918", "1914\u20131918 and 1939\u20131945", "2024-11-25 10:30:45", "25.11.2024 11:30", "11/25/2024",
    "2024 2025 2026", "ISBN 978-0-306-40615-7", "ISBN 0-306-40615-2", "ISBN 0306406152", "isbn 1-85326-041-2",
    "0-19-852663-6", "192.168.100.200", "10.0.0.138", "127.0.0.1:8080", "version 1.2.3.4567", "v10.15.7-2023.10.05",
    "$1,234,567.89", "1 000 000 000 people", "1,000,000,000", "\u20ac 12 345 678.90", "2125551234",
    "population 2024561111", "id 6502530000", "12345678901234", "3.14159265358979", "6.02214076e23",
    "10.1145/3292500.3330701", "arXiv 2005.14165", "RFC 2616 2068 1945", "0000-0002-1825-0097", "8 27 64 125 216 343",
    "03 04 05 06 07", "51.5074 -0.1278", "555-0123", "12 345 678 901", "1234-5678-9012-3456", "2 + 2 = 4",
    "20241125103045", "UPC 012345678905", "1e-10 0.0001",
    "0.035229642", "-0.0049594184", "de 1333 à 1370 (1310-1370)",
)  # fmt: skip
CARDS = (
    "4111 1111 1111 1111", "4111-1111-1111-1111", "4242424242424242", "5555555555554444", "2223 0031 2200 3222",
    "3782 822463 10005", "378282246310005", "6011111111111117", "3056 930902 5904", "3530111333300000",
    "6200000000000005",
)  # fmt: skip
NO_CARD = (
    "4111 1111 1111 1112", "1234 5678 9012 3456", "9111111111111111", "0.4242424242424242", "4242424242424242.5",
    "x4242424242424242", "42424242424242424242", "4111 1111-1111 1111", "4006381333931", "9780306406157",
    "1700000000000", "20241125103045", "354242424242424242x", "4222222222222", "3.141592653589793",
    "0000 0000 0000 0000",
)  # fmt: skip
IBANS = (
    "GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "FR14 2004 1010 0505 0001 3M02 606", "NO93 8601 1117 947",
    "BE68 5390 0754 7034",
)  # fmt: skip
NO_IBAN = (
    "GB82 WEST 1234 5698 7654 33", "DE8937040044053201300", "ZZ89370400440532013000", "XDE89370400440532013000",
    "AB12 CD34 EF56 GH78", "MODEL GB20 2024 EDITION 1234 5678", "gb82 west 1234 5698 7654 32",
)  # fmt: skip
POSITIVE = {"email": EMAILS, "phone": PHONES, "card": CARDS, "iban": IBANS, "secret": tuple(KEYS.values())}
NEGATIVE = {"email": NO_EMAIL, "phone": NO_PHONE, "card": NO_CARD, "iban": NO_IBAN, "secret": NO_SECRET}


@pytest.mark.parametrize("kind", POSITIVE)
def test_finds_each_and_nothing_else_of_its_kind(kind: str) -> None:
    positive = [frame.format(text) for text in POSITIVE[kind] for frame in ("{}", "See: {}, please.", "({})\n")]
    negative = [frame.format(text) for text in NEGATIVE[kind] for frame in ("{}", "See: {}, please.", "({})\n")]
    found = getattr(privacy, kind)(pa.array([*positive, *negative])).to_pylist()
    assert [text for text, hit in zip(positive, found, strict=False) if not hit] == []
    assert [text for text, hit in zip(negative, found[len(positive) :], strict=True) if hit] == []


@pytest.mark.parametrize("kind", POSITIVE)
def test_the_span_is_the_whole_of_it(kind: str) -> None:
    for text in POSITIVE[kind]:
        spans = [(match.start, match.end) for match in privacy.find(f"See {text} there") if match.kind == kind]
        assert [f"See {text} there"[start:end] for start, end in spans] == [text]


@pytest.mark.parametrize("kind", POSITIVE)
def test_nulls_and_empty_texts(kind: str) -> None:
    fact = getattr(privacy, kind)
    assert fact(pa.array([None, "", "nothing"])).to_pylist() == [None, False, False]
    assert len(fact(pa.array([], pa.string()))) == 0


@pytest.mark.parametrize("frame", ASSIGNED)
def test_a_random_value_for_a_password_is_a_secret(frame: str) -> None:
    text = frame.format(RUN[:16])
    (match,) = privacy.find(text)
    assert (match.kind, text[match.start : match.end]) == ("secret", RUN[:16])


def test_a_run_of_digits_is_a_phone_number_only_after_a_word_for_it() -> None:
    texts = ["Call 6502530000 today", "tel. no: 02079460018", "order 6502530000", "recall of 2023: 6502530000"]
    assert privacy.phone(pa.array(texts)).to_pylist() == [True, True, False, False]


def test_regions_say_which_national_numbers_are_known() -> None:
    texts = pa.array(["030 901820", "020 7946 0018", "22 12 34 56", "+47 22 12 34 56"])
    assert privacy.phone(texts).to_pylist() == [False, True, False, True]
    assert privacy.phone(texts, ["DE"]).to_pylist() == [True, False, False, True]
    assert privacy.phone(texts, ["NO"]).to_pylist() == [False, False, True, True]
    assert privacy.phone(texts, []).to_pylist() == [False, False, False, True]
    with pytest.raises(ValueError, match="region is 'UK', it must be an ISO 3166 code"):
        privacy.phone(texts, ["GB", "UK"])


def test_marks_around_an_address_are_left_alone() -> None:
    for text in (
        "'ann@example.com'",
        "...ann@example.com.",
        "-ann@example.com-",
        "<ann@example.com>",
        "联系ann@example.com吧",
    ):
        (match,) = privacy.find(text)
        assert text[match.start : match.end] == "ann@example.com"


def test_overlapping_finds_go_to_the_surest_kind() -> None:
    text = f"password={RUN[:12]}@example.com 4111 1111 1111 1111 and ann@example.com"
    assert [match.kind for match in privacy.find(text)] == ["secret", "card", "email"]


def test_scrub_replaces_what_is_found_and_counts_it() -> None:
    texts = ["Mail ann@example.com or bob@example.org.", None, "Pay 4111 1111 1111 1111", "", f"key {KEYS['github']}"]
    scrubbed, counts = privacy.scrub(pa.array(texts))
    assert scrubbed.to_pylist() == ["Mail [EMAIL] or [EMAIL].", None, "Pay [CARD]", "", "key [SECRET]"]
    assert counts == Counter(email=2, card=1, secret=1)


def test_scrub_leaves_the_rest_as_it_was() -> None:
    texts = pa.array([text for group in NEGATIVE.values() for text in group if not privacy.find(text)])
    assert len(texts) > 70
    scrubbed, counts = privacy.scrub(texts)
    assert scrubbed.equals(texts) and counts == Counter()


@pytest.mark.parametrize("glue", [" ", ", ", "", "-", "\n", "/"])
def test_what_is_scrubbed_holds_nothing_that_would_be_found(glue: str) -> None:
    values = [text for group in POSITIVE.values() for text in group]
    texts = pa.array([glue.join(values[at : at + 3]) for at in range(len(values))])
    once, counts = privacy.scrub(texts)
    assert sum(counts.values()) >= len(texts)
    assert privacy.scrub(once) == (once, Counter())
    assert not any(any(getattr(privacy, kind)(once).to_pylist()) for kind in POSITIVE)


def test_scrub_gives_back_the_kind_of_array_it_was_given() -> None:
    values = ["ann@example.com", None, "x"]
    for texts in (pa.array(values), pa.array(values, pa.large_string()), pa.chunked_array([values, [], values])):
        scrubbed, _ = privacy.scrub(texts)
        assert type(scrubbed) is type(texts) and scrubbed.type == texts.type
        assert scrubbed.to_pylist()[:3] == ["[EMAIL]", None, "x"]
    assert privacy.scrub(pa.array([None]))[0].to_pylist() == [None]
    assert len(privacy.scrub(pa.array([], pa.string()))[0]) == 0
