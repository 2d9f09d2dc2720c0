"""Tables damaged in every way that we could think of, in every dialect: none is read without a word
as something else than the table that was meant.
"""

import csv
import gzip
import io
import json
import logging

import numpy as np
import pandas as pd
import pytest

from fitting import Observations
from refused import Refused

HEADER = ["run", "params_total", "tokens", "loss", "note", "diverged_step"]


def clean():
    """Twelve runs of a law without noise, as written: the first size is the smallest."""
    rows = []
    for size in (2e6, 1.9e7, 2.6e8):
        for ratio in (20, 45, 110, 260):
            tokens = size * ratio
            loss = 1.8 + 430 / size**0.34 + 1250 / tokens**0.3
            rows.append([f"r{len(rows)}", f"{size:.0f}", f"{tokens:.0f}", f"{loss:.5f}", "ok", ""])
    return list(HEADER), rows


# Dialects: (header, rows) -> (ending, file).


def text(delimiter=",", ending="\n", encoding="utf-8", quoting=csv.QUOTE_MINIMAL, after=""):
    """Writes rows; `after` stands at the end of each, but not of the header."""

    def write(header, rows):
        out = io.StringIO()
        writer = csv.writer(out, delimiter=delimiter, lineterminator=ending, quoting=quoting)
        writer.writerows([header, *rows])
        first, *others = out.getvalue().splitlines(keepends=True)
        body = first + "".join(line.replace(ending, after + ending) for line in others)
        return ".csv", body.encode(encoding)

    return write


def decimal_comma(header, rows):
    place = [n for n, name in enumerate(header) if "loss" in name or "ppl" in name]
    moved = [
        [c.replace(".", ",") if n in place else c for n, c in enumerate(cells)] for cells in rows
    ]
    return text(";")(header, moved)


def spaced(header, rows):
    return ".csv", "\n".join(", ".join(map(quoted, cells)) for cells in [header, *rows]).encode()


def quoted(cell):
    return f'"{cell}"' if "," in cell or '"' in cell else cell


def commented(header, rows):
    return ".csv", b"# runs of a study\n# nats/token\n" + text()(header, rows)[1]


def numbered(header, rows):
    return text()(["", *header], [[str(n), *cells] for n, cells in enumerate(rows)])


def packed(header, rows):
    return ".csv.gz", gzip.compress(text()(header, rows)[1])


def json_lines(header, rows):
    lines = [json.dumps(dict(zip(header, cells, strict=True))) for cells in rows]
    return ".jsonl", "\n".join(lines).encode()


def parquet(header, rows):
    out, header = (
        io.BytesIO(),
        ["note" if header[:n].count(name) else name for n, name in enumerate(header)],
    )
    pd.DataFrame(rows, columns=header).to_parquet(out)
    return ".parquet", out.getvalue()


DIALECTS = {
    "comma": text(),
    "windows": text(ending="\r\n", encoding="utf-8-sig"),
    "old mac": text(ending="\r"),
    "tab": text("\t"),
    "semicolon": text(";"),
    "bar": text("|"),
    "decimal comma": decimal_comma,
    "utf-16": text("\t", encoding="utf-16"),
    "quoted": text(quoting=csv.QUOTE_ALL),
    "trailing comma": text(after=","),
    "spaces": spaced,
    "comments": commented,
    "row numbers": numbered,
    "packed": packed,
    "json lines": json_lines,
    "parquet": parquet,
}

# Damage to cells: (header, rows) -> (header, rows).


def each(column, change, every=1, first=0):
    def damage(header, rows):
        place = header.index(column)
        for row in rows[first::every]:
            row[place] = change(row[place])
        return header, rows

    return damage


def renamed(**names):
    def damage(header, rows):
        return [names.get(name, name) for name in header], rows

    return damage


def both(first, second):
    return lambda header, rows: second(*first(header, rows))


def copies(header, rows):
    again = [[f"{cells[0]}-{n}", *cells[1:]] for n in range(3) for cells in rows]
    return header, again


def shuffled(header, rows):
    order = [3, 5, 0, 2, 4, 1]
    return [header[n] for n in order], [[cells[n] for n in order] for cells in rows]


def number(form):
    return lambda cell: form(float(cell))


CELLS = {
    "nothing": lambda header, rows: (header, rows),
    "columns in another order": shuffled,
    "a number sign": each("note", lambda _: "seed #0"),
    "delimiters in quotes": each("note", lambda _: "a, b; c | d"),
    "-1 for no divergence": each("diverged_step", lambda _: "-1"),
    "suffixes": each("tokens", number(lambda v: f"{v / 1e6!r}M")),
    "powers": each("params_total", number(lambda v: f"{v:.3e}")),
    "thousands": each("tokens", number(lambda v: f"{v:,.0f}")),
    "spaced thousands": each("tokens", number(lambda v: f"{v:,.0f}".replace(",", " "))),
    "another name": renamed(tokens="tokens_seen", loss="eval/loss"),
    "a run twice": lambda header, rows: (header, [*rows, list(rows[3])]),
    "copies under other names": copies,
    "a diverged run": each("diverged_step", lambda _: "700", every=99, first=5),
    "no loss in a row": each("loss", lambda _: "", every=99, first=5),
    "nan in a row": each("loss", lambda _: "NaN", every=99, first=5),
    "infinity in a row": each("loss", lambda _: "inf", every=99, first=5),
    "text in a cell": each("tokens", lambda _: "see log", every=99, first=5),
    "text for a loss": each("loss", lambda _: "oom", every=99, first=5),
    "millions in some rows": each("params_total", number(lambda v: f"{v / 1e6!r}"), 4),
    "billions in a row": each("tokens", number(lambda v: f"{v / 1e9!r}"), 99, 6),
    "thousands in some rows": each("tokens", number(lambda v: f"{v / 1e3:.0f}"), 5, 1),
    "millions throughout": each("params_total", number(lambda v: f"{v / 1e6!r}")),
    "steps for tokens": each("tokens", number(lambda v: f"{v / 524288:.0f}")),
    "a column of steps": both(
        each("tokens", number(lambda v: f"{v / 524288:.0f}")), renamed(tokens="step")
    ),
    "a perplexity": each("loss", number(lambda v: f"{np.exp(v):.5f}")),
    "a perplexity's name": both(
        each("loss", number(lambda v: f"{np.exp(v):.5f}")), renamed(loss="val_ppl")
    ),
    "bits in some rows": each("loss", number(lambda v: f"{v / np.log(2):.5f}"), 5, 1),
    "bits by name": both(
        each("loss", number(lambda v: f"{v / np.log(2):.5f}")), renamed(loss="loss_bits")
    ),
    "a count without a kind": renamed(params_total="params"),
    "another decimal mark": each("loss", lambda c: c.replace(".", ","), every=99, first=5),
    "points for thousands": each("tokens", number(lambda v: f"{v:,.0f}".replace(",", "."))),
    "a negative count": each("tokens", lambda c: f"-{c}", every=99, first=5),
    "a loss of zero": each("loss", lambda _: "0", every=99, first=5),
    "columns that changed places": renamed(params_total="tokens", tokens="params_total"),
    "a code for a loss": each("loss", lambda _: "999", every=99, first=5),
    "logarithms": both(
        each("tokens", number(lambda v: f"{np.log10(v):.4f}")),
        each("params_total", number(lambda v: f"{np.log10(v):.4f}")),
    ),
    "a name twice": renamed(note="loss"),
    "no name": renamed(note=""),
}

# Damage to the lines of a text file: lines -> lines.


def unquoted(lines):
    return [*lines[:4], lines[4].replace("ok", "ok, fine; not | too\tbad"), *lines[5:]]


LINES = {
    "an unquoted delimiter": unquoted,
    "a row cut short": lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]],
    "the header again": lambda lines: [*lines[:6], lines[0], *lines[6:]],
    "blank lines": lambda lines: [*lines[:6], "", *lines[6:], ""],
    "a quote that does not close": lambda lines: [
        *lines[:5],
        lines[5].replace("ok", '"ok'),
        *lines[6:],
    ],
    "no header": lambda lines: lines[1:],
    "a row left out by a number sign": lambda lines: [*lines[:5], f"#{lines[5]}", *lines[6:]],
    "a footer": lambda lines: [*lines, "12 rows in all"],
}
TEXT = ("comma", "tab", "semicolon", "bar", "decimal comma", "trailing comma", "row numbers")


def lines_of(dialect, damage):
    ending, file = DIALECTS[dialect](*clean())
    return ending, "\n".join(LINES[damage](file.decode().splitlines())).encode()


def cells_of(dialect, damage):
    return DIALECTS[dialect](*CELLS[damage](*clean()))


EVERY = [(cells_of, dialect, damage) for dialect in DIALECTS for damage in CELLS]
EVERY += [(lines_of, dialect, damage) for dialect in TEXT for damage in LINES]
# All in two dialects, a fifth of them in each of the others, and those to lines; time. The rest is
# left to `make test-thorough`.
WHOLE = ("comma", "decimal comma")
SOME = [
    (make, dialect, damage)
    for make, dialect, damage in EVERY
    if make is lines_of
    or dialect in WHOLE
    or (list(DIALECTS).index(dialect) + list(CELLS).index(damage)) % 5 == 0
]


def outcome(folder, made):
    """(runs as {run: (params, tokens, loss)}, notes), or the refusal."""
    ending, file = made
    path = folder / f"table{ending}"
    path.write_bytes(file)
    try:
        runs = Observations.read(path)
        columns = [runs.column(name) for name in ("params_total", "tokens", "loss")]
    except Refused as error:
        return str(error)
    rows = map(tuple, np.stack(columns, axis=1))
    return dict(zip(runs.frame["run"].astype(str), rows, strict=True)), runs.notes


@pytest.fixture(autouse=True, scope="module")
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_there_are_many_combinations():
    assert len(SOME) >= 200 and len(EVERY) == len(DIALECTS) * len(CELLS) + len(TEXT) * len(LINES)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "combinations", [SOME, pytest.param(EVERY, marks=pytest.mark.thorough)], ids=["some", "every"]
)
def test_nothing_is_read_as_another_table_without_a_word(tmp_path, dialect, combinations):
    meant, before = outcome(tmp_path, cells_of(dialect, "nothing"))
    expected = {row[0]: tuple(map(float, row[1:4])) for row in clean()[1]}
    assert meant == expected
    silent = []
    for make, of, damage in combinations:
        if of != dialect:
            continue
        found = outcome(tmp_path, make(dialect, damage))
        if isinstance(found, str):
            assert "; accepted: " in found and "\n" not in found, damage
        elif found[0] != expected and set(found[1]) <= set(before):
            silent.append(damage)
    assert silent == []


SAME = ["nothing", "columns in another order", "a number sign", "delimiters in quotes"]
SAME += ["-1 for no divergence", "powers", "blank lines"]
REPAIRED = ["suffixes", "thousands", "spaced thousands", "another name", "a run twice"]
REPAIRED += ["the header again", "points for thousands"]
LEFT_OUT = ["no loss in a row", "nan in a row", "infinity in a row"]
LEFT_OUT += ["a row left out by a number sign"]
REFUSED = {
    "text in a cell": "tokens: got 'see log' in row 6 (line 7)",
    "text for a loss": "loss: got 'oom' in row 6 (line 7)",
    "millions in some rows": "params_total: got 2 in row 1 (line 2), row 5 (line 6), row 9",
    "billions in a row": "tokens: got 2.09 in row 7 (line 8)",
    "a column of steps": "'step=tokens[TOKENS_PER_STEP]'",
    "a perplexity's name": "'val_ppl=loss[perplexity]'",
    "bits by name": "'loss_bits=loss[bits]'",
    "a count without a kind": "'params=params_total', or =params_non_embedding",
    "another decimal mark": "loss: got '5,85518' in row 6 (line 7)",
    "a name twice": "table: got loss twice",
    "no name": "column 5 without a name",
    "an unquoted delimiter": "row 4 (line 5) with 7 cells",
    "a row cut short": "row 12 (line 13) with",
    "a quote that does not close": "readable table (unexpected end",
    "no header": "numbers on line 1",
    "a footer": "row 13 (line 14) with 1 cells",
}
SAID = {
    "thousands in some rows": "loss: rises",
    "millions throughout": "counted in millions or billions?",
    "steps for tokens": "steps given as tokens",
    "columns that changed places": "columns that changed places?",
    "a code for a loss": "loss: rises",
    "logarithms": "in millions or billions?",
    "bits in some rows": "loss: rises",
    "copies under other names": "equal to other rows in all but run: 24",
    "a diverged run": "left out, diverged: r5",
    "a perplexity": "a perplexity?",
}


def in_commas(folder, damage):
    return outcome(folder, (lines_of if damage in LINES else cells_of)("comma", damage))


@pytest.mark.parametrize("damage", [*SAME, *REPAIRED, *LEFT_OUT])
def test_what_can_be_repaired_is_and_said(tmp_path, damage):
    expected = {row[0]: tuple(map(float, row[1:4])) for row in clean()[1]}
    if damage in LEFT_OUT:
        del expected["r4" if damage in LINES else "r5"]
    found, notes = in_commas(tmp_path, damage)
    assert found == expected
    assert bool(notes) == (damage not in SAME)


@pytest.mark.parametrize("damage", REFUSED)
def test_what_cannot_be_repaired_is_named_with_its_place(tmp_path, damage):
    found = in_commas(tmp_path, damage)
    assert isinstance(found, str) and REFUSED[damage] in found


@pytest.mark.parametrize("damage", SAID)
def test_what_may_be_meant_is_read_with_a_word(tmp_path, damage):
    found, notes = in_commas(tmp_path, damage)
    assert any(SAID[damage] in note for note in notes)
