"""Tables of runs as people have them: every spelling and unit is understood, every mistake is named with its remedy."""

import json
import math
import random

import numpy as np
import pytest

from models.run_columns import NAMES, recognised
from models.run_table import parse
from models.runs import Reading, Runs, read
from models.units import PF_DAY, factor, number

PLAIN = "N,D,loss\n1e8,2e9,3.1\n2e8,4e9,2.9\n"


def runs(text: str, **how: object) -> Runs:
    return read(parse(text), Reading(**how))  # type: ignore[arg-type]


def refused(text: str, **how: object) -> str:
    with pytest.raises(ValueError, match=r"\w") as caught:
        runs(text, **how)
    return str(caught.value)


@pytest.mark.parametrize(
    ("cell", "symbol", "value"),
    [
        ("70M", "N", 7e7), ("1.4e9", "N", 1.4e9), ("1,400,000,000", "D", 1.4e9), ("5.76e+23", "C", 5.76e23),
        ("1.4B", "N", 1.4e9), ("300 B", "D", 3e11), ("300 B tokens", "D", 3e11), ("2.5T", "D", 2.5e12),
        ("3.2 PF-days", "C", 3.2 * PF_DAY), ("1.2x10^21", "C", 1.2e21), ("1.2 × 10^21", "C", 1.2e21),  # noqa: RUF001
        ("10^21 FLOPs", "C", 1e21), ("5 ZFLOPs", "C", 5e21), ("1.4 billion", "N", 1.4e9), ("1_000", "D", 1e3),
        ("1 400 000", "D", 1.4e6), ("1'400'000", "D", 1.4e6), (".5", "L", 0.5), ("+3", "L", 3.0), ("−3", "L", -3.0),  # noqa: RUF001
        ("bf16", "Pw", 16.0), ("int4", "Pkv", 4.0), ("8 bits", "Pa", 8.0), ("1e-3", "L", 1e-3), ("12.", "L", 12.0),
        ("2 bits", "L", 2 * math.log(2)), ("70m", "N", 7e7), ("450k", "N", 4.5e5),
    ],
)  # fmt: skip
def test_a_number_as_people_write_it(cell: str, symbol: str, value: float) -> None:
    assert number(cell, symbol) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "cell", ["", " ", "abc", "1,40,00", "1.2.3", "--3", "e5", ".", "5 apples", "1,2", "0x10", "1e", "3%"]
)
def test_what_is_no_number(cell: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        number(cell, "N")


def test_a_cell_with_a_unit_is_not_converted_again() -> None:
    assert number("70M", "N", unit=1e6) == number("70", "N", unit=1e6) == 7e7


def test_decimal_commas_change_places_with_points() -> None:
    assert number("1.400.000,5", "N", decimal_comma=True) == 1400000.5
    with pytest.raises(ValueError, match="no number"):
        number("2.35", "L", decimal_comma=True)


@pytest.mark.parametrize(
    ("header", "symbol", "worth"),
    [
        ("N", "N", 1), ("params", "N", 1), ("Parameters", "N", 1), ("n_params", "N", 1), ("num-params", "N", 1),
        ("Model Size", "N", 1), ("model_size", "N", 1), ("size", "N", 1), ("params_M", "N", 1e6), ("Mparams", "N", 1e6),
        ("params (millions)", "N", 1e6), ("N [B]", "N", 1e9), ("#params", "N", 1), ("numParams", "N", 1),
        ("N_non_embedding", "N without embeddings", 1), ("non-embedding params (M)", "N without embeddings", 1e6),
        ("D", "D", 1), ("tokens", "D", 1), ("Training Tokens", "D", 1), ("n_tokens", "D", 1), ("tokens_seen", "D", 1),
        ("tokens (B)", "D", 1e9), ("tokensB", "D", 1e9), ("tokens_1e9", "D", 1e9), ("tokens (10^9)", "D", 1e9),
        ("billion tokens", "D", 1e9), ("train_tokens in billions", "D", 1e9), ("TRAIN_TOKENS", "D", 1),
        ("C", "C", 1), ("flops", "C", 1), ("FLOP", "C", 1), ("Training FLOP", "C", 1), ("training_flops", "C", 1),
        ("flops_e18", "C", 1e18), ("FLOPs [1e18]", "C", 1e18), ("PFLOPs", "C", 1e15), ("compute (EFLOPs)", "C", 1e18),
        ("Compute (PF-days)", "C", PF_DAY), ("compute_pf_days", "C", PF_DAY), ("PFLOP/s-days", "C", PF_DAY),
        ("C [petaflop/s-days]", "C", PF_DAY), ("exaflops", "C", 1e18),
        ("loss", "L", 1), ("L", "L", 1), ("val_loss", "L", 1), ("Eval Loss", "L", 1), ("validation-loss", "L", 1),
        ("loss (nats)", "L", 1), ("loss (nats/token)", "L", 1), ("loss_bits", "L", math.log(2)),
        ("val_loss (bits per token)", "L", math.log(2)), ("train_loss", "L", 1), ("test loss", "L", 1),
        ("unique_tokens", "U", 1), ("U (B)", "U", 1e9), ("epochs", "epochs", 1), ("weight_bits", "Pw", 1),
    ],
)  # fmt: skip
def test_a_header_and_its_unit(header: str, symbol: str, worth: float) -> None:
    column = recognised(header)
    assert column is not None
    assert (column.symbol, column.header) == (symbol, header)
    assert factor(symbol.split()[0], column.unit) == pytest.approx(worth)


@pytest.mark.parametrize(
    "header", ["tokens_per_second", "size_gb", "layers", "lr", "flops_per_second", "days", "seed", "", "learning rate",
               "d_model", "n_layers", "n_heads", "loss_scale", "batch tokens"],
)  # fmt: skip
def test_a_header_that_says_something_else(header: str) -> None:
    assert recognised(header) is None


def test_no_name_means_two_things() -> None:
    names = [name for groups in NAMES.values() for group in groups for name in group]
    assert len(names) > 120
    assert len(names) == len(set(names))


def test_the_columns_of_a_plain_table() -> None:
    found = runs("run,N,D,C,loss\na,1e8,2e9,1.2e18,3.1\nb,2e8,4e9,4.8e18,2.9\n")
    columns = found.columns()
    assert set(columns) == {"L", "N", "D", "C"}
    assert all(column.dtype == np.float64 and len(column) == len(found) == 2 for column in columns.values())
    assert found.run == ("a", "b")
    assert found.lines == (2, 3)
    assert (found.notes, found.warnings, found.dropped) == ((), (), ())
    assert columns["N"].tolist() == [1e8, 2e8]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN, "\ufeff" + PLAIN, PLAIN.replace("\n", "\r\n"), PLAIN.replace(",", ";"), PLAIN.replace(",", "\t"),
        PLAIN.replace("loss", '"Val loss, nats"').replace(",nats", ""), "\n\n" + PLAIN + "\n\n", PLAIN.rstrip(),
        "N;D;loss\n1e8;2e9;3,1\n2e8;4e9;2,9\n", PLAIN.replace("\n", ",,\n"), PLAIN.replace(",", ", "),
        "N;D;loss\n100.000.000;2.00e9;3,1\n200.000.000;4.00e9;2,9\n",
        'N,D,loss\n"1e8","2e9","3,1"\n2e8,4e9,"2,9"\n', "N|D|loss\n1e8|2e9|3.1\n2e8|4e9|2.9",
        ",N,D,loss\n0,1e8,2e9,3.1\n1,2e8,4e9,2.9\n", "loss,tokens (B),params_M\n3.1,2,100\n2.9,4,200\n",
        '{"N":1e8,"D":2e9,"loss":3.1}\n{"N":200000000,"D":"4B","loss":2.9}\n',
        '[{"N":1e8,"D":2e9,"loss":3.1},{"N":2e8,"D":4e9,"loss":2.9}]',
        '{\n "runs": [{"N":1e8,"D":2e9,"loss":3.1},\n {"N":2e8,"D":4e9,"loss":2.9}]}',
    ],
)  # fmt: skip
def test_the_same_runs_in_many_shapes(text: str) -> None:
    found = runs(text, columns={"L": "Val loss, nats"} if "Val loss" in text else {})
    for symbol, values in {"N": [1e8, 2e8], "D": [2e9, 4e9], "L": [3.1, 2.9], "C": [1.2e18, 4.8e18]}.items():
        assert found.columns()[symbol].tolist() == pytest.approx(values, rel=1e-12)


def test_a_conversion_is_noted() -> None:
    found = runs("params_M,tokens,loss_bits\n70,3e9,3\n", units={"D": "1"})
    assert found.L.tolist() == [3 * math.log(2)]
    assert any("params_M" in note and "1e+06" in note for note in found.notes)
    assert any("loss_bits" in note and "0.693" in note for note in found.notes)


@pytest.mark.parametrize(
    ("units", "symbol", "value"),
    [({"N": "M"}, "N", 7e7), ({"D": "B", "N": "M"}, "D", 4e9), ({"L": "bits", "N": "M"}, "L", 3 * math.log(2))],
)
def test_a_unit_by_option(units: dict[str, str], symbol: str, value: float) -> None:
    text = "N,D,loss\n70,4,3\n" if "D" in units else "N,D,loss\n70,4e9,3\n"
    assert runs(text, units=units).columns()[symbol].tolist() == [pytest.approx(value)]


@pytest.mark.parametrize(
    ("text", "symbol", "value"),
    [
        ("N,D,loss\n1e8,1e10,3\n", "C", 6e18), ("N,C,loss\n1e8,6e18,3\n", "D", 1e10),
        ("D,C,loss\n1e10,6e18,3\n", "N", 1e8),
        ("D,C (PF-days),loss\n1e10,0.1,3\n", "N", 8.64e18 / 6e10),
    ],
)  # fmt: skip
def test_the_third_of_n_d_and_c(text: str, symbol: str, value: float) -> None:
    found = runs(text)
    assert found.columns()[symbol].tolist() == [pytest.approx(value)]
    assert any(note.startswith(f"{symbol} =") for note in found.notes)


def test_unique_tokens_come_from_the_epochs() -> None:
    found = runs("N,D,epochs,loss\n1e8,1e9,4,3\n1e8,1e9,0.5,3.1\n", needed=("N", "D", "U"))
    assert found.U is not None and found.U.tolist() == [2.5e8, 1e9]
    message = refused(PLAIN, needed=("N", "D", "U"))
    assert "unique_tokens" in message and "epochs" in message


def test_held_out_loss_goes_before_training_loss() -> None:
    found = runs("N,D,train_loss,val_loss\n1e8,1e9,2,3\n")
    assert found.L.tolist() == [3]
    assert any("'val_loss'" in note and "'train_loss'" in note for note in found.notes)


def test_two_equal_candidates_need_a_word() -> None:
    text = "N,D,val_loss,test_loss\n1e8,1e9,2,3\n"
    message = refused(text)
    assert all(part in message for part in ("'val_loss'", "'test_loss'", "--column L=val_loss"))
    assert runs(text, columns={"L": "Test Loss"}).L.tolist() == [3]


def test_two_candidates_for_what_nobody_asked_for_do_no_harm() -> None:
    assert "C" in runs("N,D,loss,flops,compute\n1e8,1e9,3,1e18,2e18\n").columns()


def test_which_parameters_are_counted() -> None:
    text = "params,params_non_embedding,D,loss\n1e8,9e7,1e9,3\n"
    total, bare = runs(text), runs(text, count="non-embedding")
    assert total.N is not None and total.N.tolist() == [1e8]
    assert any("--count non-embedding" in note for note in total.notes)
    assert bare.N is not None and bare.N.tolist() == [9e7]
    assert "leaves out the embeddings" in bare.convention and "params_non_embedding" in bare.convention
    assert "leaves out" in runs("N (non-embedding),D,loss\n1e8,1e9,3\n").convention
    assert "N_non_embedding" in refused(PLAIN, count="non-embedding")
    assert "--count total" in refused("N (non-embedding),D,loss\n1e8,1e9,3\n", count="total")


def test_a_column_by_a_name_of_its_own_with_its_unit() -> None:
    found = runs("w,budget of text (B),y\n1e8,2,3\n", columns={"N": "w", "D": "Budget of Text (B)", "L": "y"})
    assert found.D is not None and found.D.tolist() == [2e9]


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("", "is empty"), ("x", "'x', which is no number"), ("nan", "'nan', which is not finite"),
        ("inf", "'inf', which is not finite"), ("1e999", "not finite"), ("-2", "'-2', which is not above 0"),
        ("0", "'0', which is not above 0"), ("1e80", "which no run can have"), ("n/a", "'n/a', which is no number"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_named_with_line_column_value_and_remedy(cell: str, why: str) -> None:
    text = PLAIN + f"3e8,4e9,{cell}\n"
    message = refused(text)
    assert message.startswith("1 of 3 runs cannot be used. line 4: 'loss' ")
    assert why in message and "--drop-invalid" in message
    kept = runs(text, drop_invalid=True)
    assert len(kept) == 2
    assert len(kept.dropped) == 1 and kept.dropped[0].startswith("line 4: 'loss'")


def test_counts_below_one_and_beyond_reason() -> None:
    assert "'D' is '0.5', which is less than 1" in refused(PLAIN + "1e8,0.5,3\n")
    assert "which no run can have" in refused(PLAIN + "1e8,1e60,3\n")


def test_five_wrong_rows_are_shown_and_the_rest_counted() -> None:
    message = refused(PLAIN + "1e8,1e9,\n" * 8)
    assert message.count("is empty") == 5
    assert "and 3 more" in message


def test_a_row_of_another_length() -> None:
    assert "line 4: 4 cells where the header has 3" in refused(PLAIN + "1e8,2e9,3,1\n")
    assert "line 4: 2 cells where the header has 3" in refused(PLAIN + "1e8,2e9\n")


def test_lines_are_counted_through_quoted_line_breaks_and_blanks() -> None:
    assert "line 6: 'loss' is 'x'" in refused('run,N,D,loss\n"a\nb",1e8,1e9,3\n\n"c",1e8,1e9,3\nd,1e8,1e9,x\n')


def test_copies_are_refused_and_seeds_are_not() -> None:
    message = refused(PLAIN + "1e8,2e9,3.1\n")
    assert "line 4: repeats line 2 in every column" in message and "seed" in message
    assert runs(PLAIN + "1e8,2e9,3.1\n", drop_invalid=True).dropped == ("line 4: repeats line 2 in every column",)
    assert runs(PLAIN + "1e8,2e9,3.15\n").warnings == ()
    named = runs("run,N,D,loss\na,1e8,2e9,3\nb,1e8,2e9,3\n")
    assert len(named) == 2 and "line 3 as 2" in named.warnings[0]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("params,tokens,loss\n70M,300,3\n1B,20,3\n",
         ("'tokens'", "300", "300B", "tokens_b", "--unit D=B", "--unit D=1")),
        ("params,tokens,loss\n70,3e9,3\n1400,3e9,3\n", ("'params'", "1400M", "--unit N=M")),
        ("params,tokens,loss\n1.4,3e9,3\n", ("'params'", "billions", "--unit N=B")),
        ("N,C,loss\n1e8,100,3\n", ("'C'", "100", "--unit C=PF-days")),
        ("N,D,C,loss\n1e8,1e10,6,3\n2e8,1e10,12,2.9\n", ("'C'", "12", "--unit C=e18")),
        ("N,D,C,loss\n1e8,1e10,0.0694,3\n", ("'C'", "0.0694", "--unit C=PF-days")),
        ("N,D,loss\n7e7,300000,3\n1e10,300000,2\n", ()),
        ("N,D,loss\n7e10,300000,3\n1e10,300000,2\n", ("tokens per parameter", "--unit D=B")),
        ("N,D,loss\n1e8,1e9,31\n", ("31", "12.2", "perplexity", "--unit L=bits")),
        ("N,D,ppl\n1e8,1e9,31\n", ("'ppl'", "ln(ppl)")),
        ("N,D,val perplexity\n1e8,1e9,31\n", ("'val perplexity'", "ln(perplexity)")),
        ("N,D,bpb\n1e8,1e9,0.9\n", ("'bpb'", "ln 2", "bytes per token")),
        ("N,loss\n1e8,3\n", ("training tokens", "'N', 'loss'", "--column D=")),
        ("wandb_params_count,D,loss\n1e8,1e9,3\n", ("--column N=wandb_params_count",)),
        ("N,D,loss,loss\n1e8,1e9,3,3\n", ("line 1", "'loss'")),
        ("1e8,2e9,3.1\n1e8,2e9,3.1\n", ("line 1 holds numbers", "N,D,loss")),
        ("N D loss\n1 2 3\n", ("one cell", "spaces")),
        ("", ("empty",)), (" \n", ("empty",)), ("N,D,loss\n", ("no run below",)), ("N,D\x00", ("null bytes",)),
        ('N,D,loss\n"1e8,2,3\n', ("CSV",)), ("[1, 2]", ("item 1", "'1'")), ('{"N": 1', ("line 1",)),
        ('{"runs": 3}', ("list",)), ("[" * 9000, ("line 1",)), ('{"N":1e8,"D":[1],"loss":3}', ("'[1]'", "no number")),
        ("N;D;loss\n1e8;2e9;3,1\n1e8;2e9;3.2\n", ("line 3", "'3.2'", "decimal comma")),
        ("N,C,loss\n1e20,1e20,3\n", ("C / (6 N)", "--unit")),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used(text: str, parts: tuple[str, ...]) -> None:
    if not parts:
        assert len(runs(text)) == 2
        return
    message = refused(text)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ({"units": {"D": "apples"}}, "'apples' is no unit of D"), ({"units": {"X": "B"}}, "no symbol 'X'"),
        ({"columns": {"X": "a"}}, "'X' is no symbol"), ({"columns": {"D": "zz"}}, "--column D=zz: no such column"),
        ({"units": {"L": "bpb"}}, "no unit of L"),
    ],
)  # fmt: skip
def test_a_wrong_word_about_the_table(how: dict[str, object], part: str) -> None:
    assert part in refused(PLAIN, **how)


def test_units_that_do_not_fit_each_other_are_a_warning() -> None:
    assert "2.5 times 6 N D" in runs("N,D,C,loss\n1e8,1e10,1.5e19,3\n").warnings[0]
    assert runs("N,D,C,loss\n1e8,1e10,9e18,3\n").warnings == ()


def test_a_spare_column_with_holes_is_left_out() -> None:
    found = runs("N,D,epochs,loss\n1e8,1e10,,3\n")
    assert found.U is None
    assert any("'epochs'" in note for note in found.notes)


def test_a_run_worse_than_guessing_is_a_warning() -> None:
    assert "line 4: 13 nats" in runs(PLAIN + "3e8,2e9,13\n").warnings[0]


CELLS = ("1e8", "2e9", "3.1", "", "nan", "-1", "0", "70M", "1,4", '"', ";", "x", "1e999", "1e-320", "9" * 400, "\u0663",
         "inf", "300 B", "5 PF-days", "10^400", "1e40", "\ud7ff", "'", "bits", "2.5 bits", "1x10^9999")  # fmt: skip
HEADS = ("N", "D", "loss", "C", "tokens (B)", "epochs", "U", "val_loss", "params_M", "", "ppl", "Pw", "run", "flops")


def test_no_table_ends_in_anything_but_runs_or_a_message() -> None:
    rng = random.Random(5)
    understood = 0
    for _ in range(1500):
        heads = rng.choice((["N", "D", "loss"], rng.sample(HEADS, rng.randint(1, 6))))
        mark = rng.choice(",;\t|")
        lines = [mark.join(heads)] + [
            mark.join(
                rng.choice(CELLS[: rng.choice((3, 3, len(CELLS)))])
                for _ in range(max(1, len(heads) + rng.choice((0, 0, 0, 1))))
            )
            for _ in range(rng.randint(0, 4))
        ]
        understood += _answers(rng.choice(("\n", "\r\n", "\r")).join(lines), rng)
    assert understood >= 10


def test_no_bytes_end_in_anything_but_a_message() -> None:
    rng = random.Random(6)
    for _ in range(600):
        _answers(rng.randbytes(rng.randint(0, 60)).decode("latin-1"), rng)
        letters = 'N,D;\t"\n{}[]:loss1e8.5 \\u0'
        _answers("".join(rng.choice(letters) for _ in range(rng.randint(0, 60))), rng)
        damaged = list(json.dumps([{"N": 1e8, "D": 1e9, "loss": 3}]) if rng.random() < 0.5 else PLAIN)
        damaged[rng.randrange(len(damaged))] = chr(rng.randint(0, 300))
        _answers("".join(damaged), rng)


def _answers(text: str, rng: random.Random) -> bool:
    """Whether a text was understood; anything but runs or a ValueError ends the test."""
    how = Reading(drop_invalid=rng.random() < 0.5, needed=rng.choice((("N", "D"), ("C",), ("N", "D", "U"))))
    try:
        found = read(parse(text), how)
    except ValueError:
        return False
    assert all(np.isfinite(column).all() and (column > 0).all() for column in found.columns().values())
    return True


SWEEP = [(10**8 * (i + 1), 10**9 * (i % 4 + 2), 3.0 - 0.1 * i) for i in range(8)]


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ("Total,1e9,3e9,3.0", "'name' is 'Total', which sums up runs"),
        ("average,1e9,3e9,3.0", "'name' is 'average'"),
        (f",{sum(row[0] for row in SWEEP)},{sum(row[1] for row in SWEEP)},{sum(row[2] for row in SWEEP):.2f}",
         "is the sum of the rows above"),
        (f",{sum(row[0] for row in SWEEP) / 8},{sum(row[1] for row in SWEEP) / 8},{sum(row[2] for row in SWEEP) / 8}",
         "is the mean of the rows above"),
    ],
)  # fmt: skip
def test_a_row_that_sums_up_others_is_no_run(last: str, why: str) -> None:
    text = "\n".join(["name,N,D,loss", *(f"r,{n},{d},{loss:.2f}" for n, d, loss in SWEEP)])
    message = refused(f"{text}\n{last}\n")
    assert f"line 10: {why}" in message and "--drop-invalid" in message
    assert len(runs(f"{text}\n{last}\n", drop_invalid=True)) == 8
    pooled = "\n".join(["pooling,N,D,loss", *(f"mean,{n},{d},{loss:.2f}" for n, d, loss in SWEEP)])
    assert len(runs(pooled)) == 8


def test_columns_of_a_tracker() -> None:
    found = runs("run_id,metrics.val_loss,params.n_params,config/tokens\na,3.1,1e8,2e9\nb,2.9,2e8,4e9\n")
    assert (found.L[0], found.N[0], found.D[0]) == (3.1, 1e8, 2e9)  # type: ignore[index]
    assert found.names == ("line 2 (a)", "line 3 (b)")


def test_n_and_d_that_look_swapped_are_a_warning() -> None:
    assert any("are N and D swapped?" in each for each in runs("D,N,loss\n1e8,2e9,3.1\n2e8,4e9,2.9\n").warnings)
    assert not runs(PLAIN).warnings


def test_the_run_column_may_be_named() -> None:
    found = runs("id,which,N,D,loss\n1,x\x1b[2J,1e8,2e9,3.1\n2,y,2e8,4e9,2.9\n", columns={"run": "which"})
    assert found.run == ("x\x1b[2J", "y") and found.names[0] == r"line 2 ('x\x1b[2J')"
