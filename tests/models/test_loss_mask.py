import re
from html.parser import HTMLParser

import pytest

from models import loss_mask
from models.loss_mask import CLOSE, IGNORED, OPEN, MaskFinding, Piece, Tokens
from models.tokenizer import ASSISTANT, END, USER, train_tokenizer

ANSWER = "The naïve fox 🦊"
CHAT = [{"role": "user", "content": "Who\njumps?"}, {"role": "assistant", "content": ANSWER}]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The quick brown fox jumps over the lazy dog. " * 20], vocabulary=300, context=128)


@pytest.fixture(scope="module")
def tokens(tokenizer) -> Tokens:
    return loss_mask.tokens_of(tokenizer)


@pytest.fixture
def row(tokenizer) -> tuple[list[int], list[int], list[int]]:
    """Ids, right labels and attention mask of one padded example."""
    encoded = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids = encoded["input_ids"]
    labels = [token if marked else IGNORED for token, marked in zip(ids, encoded["assistant_masks"], strict=True)]
    padding = [tokenizer.pad_token_id] * 3
    return ids + padding, labels + [IGNORED] * 3, [1] * len(ids) + [0] * 3


def problem(row, tokens, *, answer=ANSWER, max_length=128) -> MaskFinding:
    return loss_mask.inspect(*row, answer=answer, tokens=tokens, max_length=max_length)


def test_a_right_mask_has_no_problem_and_its_figures_leave_padding_out(row, tokens):
    found = problem(row, tokens)
    assert (found.problem, found.remedy) == ("", "")
    ids, _, attention = row
    assert found.ids == tuple(ids[:-3])
    ((first, end),) = found.spans
    assert tokens.decode(found.ids[first:end]) == ANSWER + END
    assert end == len(found.ids) == sum(attention)
    assert found.share == pytest.approx((end - first) / end)


def test_nothing_or_everything_trained(row, tokens):
    ids, _, attention = row
    nothing = problem((ids, [IGNORED] * len(ids), attention), tokens)
    assert nothing.problem == "nothing is trained"
    assert nothing.spans == [] and nothing.share == 0
    everything = problem((ids, [t if a else IGNORED for t, a in zip(ids, attention, strict=True)], attention), tokens)
    assert everything.problem == "everything is trained, the prompt too"
    assert "{% generation %}" in everything.remedy


def test_a_stop_token_that_is_not_trained(row, tokens):
    _, labels, _ = row
    stop = max(i for i, label in enumerate(labels) if label != IGNORED)
    labels[stop] = IGNORED
    assert (
        problem(row, tokens).problem == f"the stop token {END} is not trained, so the model would never learn to stop"
    )
    shared = Tokens(tokens.decode, tokens.again, tokens.stop_ids, pad_id=min(tokens.stop_ids))
    found = problem(row, shared)
    assert found.problem == f"the stop token {END} is not trained, and it is the pad token as well"
    assert found.remedy.startswith("Give the tokenizer a pad token of its own")


def test_a_missing_stop_token_is_told_from_an_answer_cut_off(row, tokens):
    stop = sum(row[2]) - 1
    cut = tuple(column[:stop] for column in row)
    assert problem(cut, tokens).problem == f"no stop token {END} ends the answer"
    found = problem(cut, tokens, max_length=stop)
    assert (
        found.problem == f"the answer is cut off: the example fills max_length, {stop} tokens, and ends without {END}"
    )
    assert found.remedy.startswith("Raise max_length")


def test_trained_text_that_is_not_the_answer(row, tokens):
    ids, labels, _ = row
    assert "not the answer 'The dog'" in problem(row, tokens, answer="The dog").problem
    first = next(i for i, label in enumerate(labels) if label != IGNORED)
    for position, value in ((first, IGNORED), (first - 1, ids[first - 1])):
        wrong = [*labels[:position], value, *labels[position + 1 :]]
        assert "what is trained is not the answer" in problem((ids, wrong, row[2]), tokens).problem


def test_trained_padding_and_shifted_labels(row, tokens):
    ids, labels, attention = row
    assert problem((ids, [*labels[:-1], ids[-1]], attention), tokens).problem == "padding is trained"
    shifted = [*labels[1:], IGNORED]
    assert problem((ids, shifted, attention), tokens).problem == "a label differs from its token"
    with pytest.raises(ValueError, match="tokens have 1 labels"):
        problem((ids, [IGNORED], attention), tokens)


def test_blanks_behind_the_stop_token_and_around_the_answer_are_no_problem(tokenizer, tokens):
    prompt, answer = (tokenizer(text)["input_ids"] for text in (f"{USER}Who?{ASSISTANT}", f" The fox{END}\n"))
    ids = prompt + answer
    row = ids, [IGNORED] * len(prompt) + answer, [1] * len(ids)
    assert problem(row, tokens, answer="The fox  ").problem == ""


def test_what_a_tokenizer_changes_in_a_text_is_no_fault_of_the_mask(row, tokens):
    lower = Tokens(tokens.decode, lambda text: tokens.again(text).replace("THE", "The"), tokens.stop_ids, tokens.pad_id)
    assert problem(row, lower, answer="THE naïve fox 🦊").problem == ""


def test_a_sample_is_spread_over_all_lengths():
    lengths = [9, 3, 7, 5, 1, 8, 2, 6, 4, 0]
    assert [lengths[i] for i in loss_mask.spread(lengths, 4)] == [0, 3, 6, 9]
    assert loss_mask.spread([5, 2], 64) == [1, 0]
    assert len(set(loss_mask.spread([7] * 1000, 64))) == 64


def test_pieces_tear_no_character_and_lose_none(row, tokens):
    found = problem(row, tokens)
    shown = loss_mask.pieces(found, tokens.decode, most=100)
    assert "".join(piece.text for piece in shown) == f"{USER}Who\njumps?{ASSISTANT}{ANSWER}{END}"
    assert {"🦊", "ï"} <= {piece.text.strip() for piece in shown}
    assert "".join(piece.text for piece in shown if piece.trained) == ANSWER + END


def test_a_mask_that_changes_within_a_character_is_shown_and_not_hidden(tokenizer, tokens):
    ids = tokenizer("🦊")["input_ids"]
    assert len(ids) == 4
    shown = loss_mask.pieces(MaskFinding(tuple(ids), (False, False, True, True)), tokens.decode, most=10)
    assert [piece.trained for piece in shown] == [False, True]
    assert all(piece.text for piece in shown)


def test_a_long_stretch_keeps_its_ends(tokenizer, tokens):
    ids = tuple(tokenizer("The quick brown fox jumps over the lazy dog. " * 9)["input_ids"])
    shown = loss_mask.pieces(MaskFinding(ids, (False,) * len(ids)), tokens.decode, most=6)
    assert len(shown) == 7
    assert shown[3].text.strip() == "…"
    assert shown[0].text == tokens.decode(ids[:1]) and shown[-1].text == tokens.decode(ids[-1:])


def test_brackets_stand_around_what_is_trained():
    shown = [Piece("a ", False), Piece(" b\tc", True), Piece("\nd ", True), Piece("e", False)]
    assert loss_mask.bracketed(shown) == f"a·{OPEN}·b→c↵\nd·{CLOSE}e"
    assert loss_mask.bracketed([Piece("  ", True)]) == f"{OPEN}··{CLOSE}"


@pytest.mark.parametrize("char", ["\u202e", "\x1b", "\u200b", "\ud800", "\u00a0", OPEN])
def test_characters_that_deceive_are_shown_by_number(char):
    shown = [Piece(f"a{char}b", True)]
    expected = f"a\\u{{{ord(char):x}}}b"
    assert loss_mask.bracketed(shown) == f"{OPEN}{expected}{CLOSE}"
    assert expected in loss_mask.coloured(shown)


def test_right_to_left_text_is_kept_apart_from_its_brackets():
    shown = [Piece("Q", False), Piece("שלם", True)]
    assert loss_mask.bracketed(shown) == f"Q{OPEN}\u2068שלם\u2069{CLOSE}"
    assert "<bdi><mark><span>שלם</span></mark></bdi>" in loss_mask.coloured(shown)


def test_html_is_escaped_and_closes_what_it_opens():
    shown = [Piece("<script>&", False), Piece(' "x"\n', True), Piece("\u200dz", True)]
    page = loss_mask.coloured(shown)
    assert "<script" not in page and "&lt;script&gt;&amp;" in page
    assert re.sub(r"<[^>]+>", "", page) == "&lt;script&gt;&amp;·&quot;x&quot;↵\u200dz"
    assert page.count("<mark>") == 1
    open_tags: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in {"br", "wbr"}:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Balance().feed(page)
    assert open_tags == []


def test_the_summary_names_shares_and_shows_two_samples(row, tokens):
    findings = [problem(row, tokens)] * 5
    made = loss_mask.summary(["a", "b", "<c>", "d", "e"], findings, tokens, examples=1200)
    assert (made["examples"], made["checked"]) == (1200, 5)
    assert made["share"]["min"] == made["share"]["max"] == round(findings[0].share, 4)
    assert [sample["id"] for sample in made["samples"]] == ["<c>", "e"]
    assert made["samples"][0]["spans"] == findings[0].spans
    assert "5 of 1,200 examples" in loss_mask.sentence(made)
    page = loss_mask.html_page(made)
    assert "<h2>&lt;c&gt;</h2>" in page and page.count("<mark>") == 2
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
