# ruff: noqa: RUF001 (texts in many scripts are the matter here)
import os
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from tokenizers import Regex, pre_tokenizers

from models import characters, quality
from tasks.settings import ROOT

FACTS = (
    "characters", "words", "pretokens", "blank", "replacement", "control", "invisible", "mojibake", "letters",
    "foreign", "repetition", "top_word", "markers", "urls", "profane",
)  # fmt: skip
CORRECT = (
    "L’élève a reçu un « très bon » œuf à Noël ; où est-ce ? Ça coûte 5 € — naïf, Œdipe, cœur.",
    "¿Dónde está el niño? ¡Mañana, señor! La cigüeña pesó 3 kg y costó 20 € según él.",
    "Tiếng Việt: Đường phố Hà Nội đẹp lắm, người dân rất thân thiện và mến khách ở đây.",
    "Съешь же ещё этих мягких французских булок, да выпей «чаю» — в Москве и Санкт-Петербурге.",
    "敏捷的棕色狐狸跳过了懒狗。“你好”，他说：《红楼梦》很长……",
    "これはペンです。「東京」は日本の首都であり、コーヒーがおいしい。",
    "Great job 👍🏽❤️ family 👨\u200d👩\u200d👧 flag 🏴󠁧󠁢󠁥󠁮󠁧󠁿 on fire ❤️\u200d🔥",
    "Über die Straße läuft ein größeres Mädchen; „Wörter“ in Anführungszeichen – 10 °C.",
    "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. İstanbul'da çiğ köfte.",
    "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.",
    "می\u200cخواهم کتاب\u200cها را بخوانم و بنویسم.",
    "क्\u200dया आप हिन्दी बोलते हैं? धन्यवाद।",
)


def _random_texts(alphabet: str, *, count: int, length: int, seed: int = 3) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(alphabet, k=rng.randrange(length))) for _ in range(count)]


def _flagged(fact: str, texts: tuple[str, ...]) -> list[str]:
    found = getattr(quality, fact)(pa.array(texts)).to_pylist()
    return [text for text, hit in zip(texts, found, strict=True) if hit]


@pytest.mark.parametrize("fact", FACTS)
def test_a_null_stays_null_however_the_texts_are_stored(fact: str) -> None:
    values = ["skipped", "One two.", None, "", "trois é 日本", *["a b c d e"] * 5]
    whole = pa.array([*values, " ".join(map(str, range(30)))])
    expected = getattr(quality, fact)(whole).to_pylist()
    assert expected[2] is None and expected[1:2] == getattr(quality, fact)(pa.array(["One two."])).to_pylist()
    stored = [whole.cast(pa.large_string()), pa.chunked_array([whole[:2], whole[2:2], whole[2:]])]
    assert [getattr(quality, fact)(texts).to_pylist() for texts in stored] == [expected, expected]
    assert getattr(quality, fact)(whole[1:6]).to_pylist() == expected[1:6]
    assert len(getattr(quality, fact)(pa.array([], pa.string()))) == 0
    assert getattr(quality, fact)(pa.array([None])).to_pylist() == [None]


def test_texts_go_through_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pa.array(["", "a" * 50, None, *["b c"] * 40, "d " * 100, "e"])
    expected = quality.words(texts).to_pylist()
    monkeypatch.setattr(characters, "_BYTES", 64)
    monkeypatch.setattr(characters, "_ROWS", 7)
    pieces = list(quality.slices(texts))
    assert pa.concat_arrays(pieces).equals(texts)
    assert len(pieces) > 7 and max(map(len, pieces)) <= 7
    sizes = [[len(text or "") for text in piece.to_pylist()] for piece in pieces]
    assert all(sum(size) <= 64 + max(size) for size in sizes)
    assert quality.words(texts).to_pylist() == expected


def test_refuses_what_is_not_text() -> None:
    with pytest.raises(ValueError, match=r"of type int64.*cast the column to string"):
        quality.words(pa.array([1, 2]))


def test_counts_are_pythons() -> None:
    spaces = "".join(chr(point) for point in range(0x3100) if chr(point).isspace())
    texts = ["", " ", *_random_texts(f"abé日🎉 {spaces}", count=500, length=12)]
    assert quality.characters(pa.array(texts)).to_pylist() == [len(text) for text in texts]
    assert quality.words(pa.array(texts)).to_pylist() == [len(text.split()) for text in texts]


@pytest.mark.parametrize(
    "splitter",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            behavior="isolated",
        ),
    ],
    ids=["GPT-2", "Llama 3"],
)
def test_no_byte_level_tokenizer_makes_fewer_tokens_than_pretokens(splitter: pre_tokenizers.PreTokenizer) -> None:
    texts = [*CORRECT, 'It\'s (not) "so" - 1,234.50!!', *_random_texts("ab1,.'(s é日\n\t!", count=2000, length=16)]
    bound = quality.pretokens(pa.array(texts)).to_pylist()
    exact = [len(splitter.pre_tokenize_str(text)) for text in texts]
    assert all(low <= count for low, count in zip(bound, exact, strict=True))
    assert sum(bound) > 0.6 * sum(exact)
    assert quality.pretokens(pa.array(["Two words, 12 (see it's)", ""])).to_pylist() == [8, 0]


def test_blank_is_what_shows_nothing() -> None:
    texts = ("", " \t\n", "\u00a0\u3000\u2003", "\u200b\ufeff", "\u200d\u2060\u00ad", "\x00", "a", " . ", "\u200bx")
    assert _flagged("blank", texts) == list(texts[:6])


def test_broken_characters() -> None:
    texts = ("caf\ufffd", "\x00", "\x1b[0m", "\x0c", "\x7f", "\x85", "\x9f", "\ufffe", "\uffff", "a\tb\r\nc", "é 日 🎉")
    assert _flagged("replacement", texts) == ["caf\ufffd"]
    assert _flagged("control", texts) == list(texts[1:9])


def test_hidden_characters_but_not_those_that_scripts_and_emoji_need() -> None:
    hidden = (
        "pass\u200bword", "\ufeffstart", "a\u202egnp.exe", "\u2066x\u2069", "ab\u200dc", "lat\u200cin", "a\u200eb",
        "x" + "".join(chr(0xE0000 + ord(char)) for char in "ignore"), "🎉\U000e0069", "👍🏽\u200d\u200dx",
    )  # fmt: skip
    proper = (*CORRECT, "שלום\u200f (abc)\u200e", "ภาษา\u200bไทย", "soft\u00adhyphen", "no\u2060break")
    assert _flagged("invisible", hidden + proper) == list(hidden)


def test_mojibake_in_every_language_and_no_false_alarm() -> None:
    assert _flagged("mojibake", CORRECT) == []
    for text in CORRECT[:6]:
        assert _flagged("mojibake", (broken := text.encode().decode("cp1252", "replace").replace("\ufffd", ""),)), (
            broken
        )
    assert len(_flagged("mojibake", ("cafÃ©", "itâ€™s", "ï»¿id", "Â£5", "ÐŸÑ€Ð¸Ð²ÐµÑ‚"))) == 5


def test_the_hint_for_mojibake_misses_nothing() -> None:
    spread = "".join(chars[:3] + chars[-1] for chars in MOJIBAKE_CATEGORIES.values()).replace("-", "")
    texts = _random_texts(f"{spread}ŒœÂÃÎÐØÙ×√≈‚âβ€ГўВЂВРСàó²±°´a.z \x85", count=6000, length=7)
    assert quality.mojibake(pa.array(texts)).to_pylist() == [is_bad(text) for text in texts]


def _repeated(text: str, width: int) -> float:
    words = text.casefold().split()
    grams = [tuple(words[i : i + width]) for i in range(len(words) - width + 1)]
    return 1 - len(set(grams)) / len(grams)


@pytest.mark.parametrize("width", [1, 2, 4, 20])
def test_repetition_is_the_naive_count(width: int) -> None:
    rng = random.Random(width)
    texts = [" ".join(rng.choices(["a", "B", "b", "cé", "日", "."], k=rng.randrange(60))) for _ in range(400)]
    expected = [_repeated(text, width) if len(text.split()) >= 20 else None for text in texts]
    found = quality.repetition(pa.array(texts), width=width).to_pylist()
    assert [value is None for value in found] == [value is None for value in expected]
    assert [value for value in found if value is not None] == pytest.approx([v for v in expected if v is not None])
    assert 50 < found.count(None) < 350


def test_repetition_of_a_loop_and_of_prose() -> None:
    prose = "the quick brown fox jumps over a lazy dog while seven wizards brew their potion in some dark old hut"
    loop = "I do not know . " * 10
    assert quality.repetition(pa.array([prose, loop]), least_words=10).to_pylist() == [0.0, pytest.approx(1 - 5 / 47)]
    with pytest.raises(ValueError, match=r"width is 5.*least_words, 4"):
        quality.repetition(pa.array([prose]), width=5, least_words=4)


def test_top_word_is_the_naive_count() -> None:
    rng = random.Random(5)
    texts = [" ".join(rng.choices(["a", "A", "b\t", "cé", "日"], k=rng.randrange(12))) for _ in range(300)]
    counts = [Counter(text.lower().split()) for text in texts]
    for least in (0, 6):
        expected = [max(c.values()) / c.total() if c.total() >= max(least, 1) else None for c in counts]
        assert quality.top_word(pa.array(texts), least_words=least).to_pylist() == expected


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("Latin", "Où est-ce ? ₂"),
        ("Cyrillic", "Привет, мир 2"),
        ("Greek", "Καλημέρα"),
        ("Arabic", "مرحبا بالعالم"),
        ("Hebrew", "שלום"),
        ("Devanagari", "नमस्ते"),
        ("Thai", "สวัสดี"),
        ("Han", "你好，世界"),
        ("Japanese", "コーヒーを飲む"),
        ("Korean", "안녕하세요"),
    ],
)
def test_letters_outside_a_script(script: str, text: str) -> None:
    assert script in quality.SCRIPTS
    other = "да" if script == "Latin" else "ab"
    own = sum(map(str.isalpha, text))
    texts = pa.array([text, other, text + other, "123 !?", ""])
    found = quality.foreign(texts, script=script).to_pylist()
    assert found[:2] == [0.0, 1.0] and found[3:] == [None, None]
    assert 2 / (own + 2) <= found[2] < 1


def test_foreign_names_the_scripts_there_are() -> None:
    with pytest.raises(ValueError, match="script is 'latin', it must be one of Latin, Cyrillic"):
        quality.foreign(pa.array(["a"]), script="latin")


def test_letters_is_low_for_symbol_soup() -> None:
    found = quality.letters(pa.array(["Plain text 42", "a=!!", "", "हिन्दी में", "|---|~~#@"])).to_pylist()
    assert found == [1.0, 0.25, None, 1.0, 0.0]


def test_template_markers() -> None:
    marked = (
        "<|im_start|>user", "end<|endoftext|>", "<|user|>hi", "<|assistant|>", "<|eot_id|>", "<|start_header_id|>x",
        "[INST] Hello [/INST]", "<<SYS>>", "<start_of_turn>model", "Below.\n\n### Instruction:\nWrite", "### Response:",
        "<s> Hello there", "<s>Hello there", "The answer is 4.</s>", "one </s> two", "</s><s>", "a\n\nHuman: hi",
        "\n\nAssistant: yes", "<\uff5cUser\uff5c>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "[TOOL_CALLS] [{}]",
    )  # fmt: skip
    ordinary = (
        "<p>was <s>$99</s> now $49</p>", "<s>struck</s>", "<section><span>x</span></section>", "Map<String, List<S>>",
        "f <| x |> g", "a <|> b", "std::vector<s> v", "# Instructions\n\n## Response", "The human: a story",
        "### Install:", "| a | b |\n|---|---|", "[instance]", "see ### Instruction: there", "x<s>y", "if a<s and b>s",
        "Assistant: yes", "[INSTALL]",
    )  # fmt: skip
    assert _flagged("markers", marked + ordinary) == list(marked)


def test_urls() -> None:
    linked = ("see https://example.com/a", "HTTP://EXAMPLE.COM", "ftp://host/file", "(www.example.org)")
    plain = ("http is a protocol", "https://", "www. is a prefix", "e.g. file.txt", "awww.cute", "and/or: a//b")
    assert _flagged("urls", linked + plain) == list(linked)


def test_profanity_is_whole_words_only() -> None:
    rude = ("What the FUCK?", "bullshit!", "you assholes", "motherfucker", "shitty", "(Bitch)")
    clean = (
        "Scunthorpe and Penistone", "Matsushita", "an assassin in the cockpit", "Dickens wrote; Dick read",
        "shiitake", "Essex and Sussex", "a cocktail for the bastard", "niggardly", "Fukushima",
        "class pass grass", "Hitchcock", "shitake mushrooms", "Wankel engine", "snigger",
    )  # fmt: skip
    assert _flagged("profane", rude + clean) == list(rude)


def test_hashes_are_the_published_xxh3_and_fold_brings_copies_together() -> None:
    texts = pa.array(["", "a", None, "Hello  World\n", " hello world", "hello worlds", "ÉTÉ", "été"])
    plain, folded = quality.hashes(texts), quality.hashes(texts, fold=True)
    assert plain.dtype == np.uint64
    assert plain[:3].tolist() == [0x2D06800538D394C2, 0xE6C632B61E964E1F, 0]
    assert len(set(plain.tolist())) == 8
    assert folded[3] == folded[4] != folded[5] and folded[6] == folded[7] and folded[2] == 0


def test_hashes_are_the_same_in_another_process() -> None:
    program = "import pyarrow as pa; from models.quality import hashes; print(hashes(pa.array(['été', 'x'])).tolist())"
    env = {**os.environ, "PYTHONHASHSEED": "5"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.stdout.strip() == str(quality.hashes(pa.array(["été", "x"])).tolist()), done.stderr


def test_contains() -> None:
    cases = (
        ("The capital is  PARIS.", "paris", True, True), ("New\nYork City", "new  york", True, True),
        ("a party", "art", True, False), ("art party", "Art", True, True), ("party art", "art", True, True),
        ("anything", "", False, False), ("anything", " \n", False, False), ("", "x", False, False),
        ("abc", "abcd", False, False), ("ÉTÉ 日本", "été", True, True), ("日本語", "日本", True, False),
        ("x_art", "art", True, False), ("(art)", "art", True, True),
    )  # fmt: skip
    haystacks, needles, anywhere, alone = map(list, zip(*cases, strict=True))
    chunked = pa.chunked_array([haystacks[:4], haystacks[4:]])
    assert quality.contains(chunked, pa.array(needles)).to_pylist() == anywhere
    assert quality.contains(chunked, pa.array(needles), whole_words=True).to_pylist() == alone


def test_contains_passes_nulls_on_and_refuses_unequal_lengths() -> None:
    assert quality.contains(pa.array([None, "a", "a"]), pa.array(["a", None, "a"])).to_pylist() == [None, None, True]
    with pytest.raises(ValueError, match="1 haystacks and 2 needles"):
        quality.contains(pa.array(["a"]), pa.array(["a", "b"]))
