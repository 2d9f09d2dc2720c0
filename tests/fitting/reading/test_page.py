"""Every line of docs/tables.md: a file that is read as it says, and one that is not."""

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fitting import Observations
from fitting.reading import read_table
from refused import Refused
from tests.fitting.reading.logs import tensorboard

PAGE = Path(__file__).parents[3] / "docs" / "tables.md"
ROWS = (("a", "1900000", "38000000", "9.1"), ("b", "1900000", "88000000", "8.25"))
ROWS += (("c", "44100000", "900000000", "5.5"),)
NAMES = ("run", "params_total", "tokens", "loss")


def table(names=NAMES, rows=ROWS, delimiter=","):
    return "".join(delimiter.join(cells) + "\n" for cells in (names, *rows))


def cell(column, *values):
    """The table with a column in other words."""
    place = NAMES.index(column)
    rows = [(*row[:place], v, *row[place + 1 :]) for row, v in zip(ROWS, values, strict=True)]
    return table(rows=rows, delimiter=";")


def name(ours, theirs):
    return table([theirs if n == ours else n for n in NAMES])


def more(column, *values, rows=ROWS):
    return table((*NAMES, column), [(*r, v) for r, v in zip(rows, values, strict=True)])


PLAIN = table()
STEPS = cell("tokens", "100", "200", "1500").replace("tokens", "step")
# The line: (ending, right file, what is said of it or "", wrong file, what is said of that).
LINES = {
    "commas, tabs, semicolons, bars or spaces between cells, found by the header's length": (
        (".csv", table(delimiter=" "), ""),
        (".csv", PLAIN.replace("a,", "a;"), "cells in each row"),
    ),
    "Windows, Unix and old Mac line ends; UTF-8 with or without a mark, UTF-16, Windows-1252": (
        (".csv", PLAIN.replace("\n", "\r\n").encode("utf-16"), ""),
        (".csv", b"\x7fELF\x00\x01" + PLAIN.encode(), "a text file with a header line"),
    ),
    "lines that start with `#` are comments; a `#` inside a row is a character": (
        (".csv", "# losses\n" + more("note", "seed #0", "#1", "#"), ""),
        (".csv", PLAIN.replace("\nb", "\n#b"), "comments that look like rows: 1 (line 3)"),
    ),
    "cells in double quotes may hold delimiters, line ends and doubled quotes": (
        (".csv", more("note", '"a, b"', '"two\nlines"', '"a ""b"""'), ""),
        (".csv", more("note", "a, b", "", ""), "row 1 (line 2) with 6 cells"),
    ),
    "a delimiter at the end of every row, and a column that only numbers the rows": (
        (
            ".csv",
            table(("", *NAMES), [(str(n), *row, "") for n, row in enumerate(ROWS)]),
            "left out",
        ),
        (".csv", PLAIN.replace("9.1\n", "9.1,\n"), "row 1 (line 2) with 5 cells"),
    ),
    "a header repeated between rows, blank lines, and `sep=;` on the first line": (
        (".csv", "sep=;\n" + 2 * (table(delimiter=";") + "\n"), "the header again: 1 rows"),
        (".csv", "\n".join(PLAIN.splitlines()[1:]), "numbers on line 1"),
    ),
    "packed text, as in `.csv.gz`, `.csv.bz2` and `.csv.xz`": (
        (".csv.xz", lzma.compress(PLAIN.encode()), ""),
        (".csv.gz", gzip.compress(PLAIN.encode())[:-9], "a readable table"),
    ),
    "JSON lines, nested objects as names with a slash": (
        (
            ".jsonl",
            "".join(
                f'{{"run": "{r}", "params_total": {p}, "tokens": {t}, "eval": {{"loss": {v}}}}}\n'
                for r, p, t, v in ROWS
            ),
            "eval/loss as loss",
        ),
        (".jsonl", '{"loss": 3}\n{"loss": 2,}\n', "line 2; accepted: a JSON object on each line"),
    ),
    "Parquet": (
        (".parquet", lambda file: typed().to_parquet(file), ""),
        (".parquet", b"PAR1 and no more", "a readable table"),
    ),
    "Excel workbooks where a reader such as openpyxl is installed; `FILE.xlsx:SHEET` names a "
    "sheet": (
        (".xlsx", lambda file: workbook(file, "runs"), ""),
        (".xlsx", lambda file: workbook(file, "one", "two"), "table.xlsx:one, "),
    ),
    "a folder of TensorBoard files: the last value of every scalar, or every step for `schedule`": (
        ("", lambda folder: tensorboard(folder, NAMES, ROWS), ""),
        ("", lambda folder: folder.mkdir(), "a folder of TensorBoard files"),
    ),
    "a store of our own or one of its studies": (
        ("", lambda folder: store(folder, "one"), ""),
        ("", lambda folder: store(folder, "one", "two"), "studies/one, "),
    ),
    "plain numbers and powers of ten, as in `1e9`, `1.5E+09` and `1.2x10^9`": (
        (".csv", cell("params_total", "1.9e6", "19E+05", "4.41x10^7"), "a power is written out"),
        (".csv", cell("params_total", "1.9e6", "19e", "4.41e7"), "'19e' in row 2 (line 3)"),
    ),
    "`19.2M`, `1.5B`, `20BT` and `512k` in columns of counts": (
        (".csv", cell("tokens", "38M", "88M", ".9BT"), "M, B, T are"),
        (".csv", cell("loss", "9.1", "8.25k", "5.5"), "loss: got '8.25k' in row 2 (line 3)"),
    ),
    "thousands separators in columns of counts, as in `19,200,000`, `19 200 000` and "
    "`19.200.000`": (
        (".csv", cell("tokens", "38,000,000", "88 000 000", "900,000,000"), "are thousands"),
        (".csv", cell("tokens", "38,000,00", "88000000", "9e8"), "tokens: got '38,000,00'"),
    ),
    "decimal commas, where the file does not use points as well": (
        (".csv", cell("loss", "9,1", "8,25", "5,5"), ", is the decimal mark"),
        (".csv", cell("loss", "9,1", "8.25", "5,5"), "loss: got '9,1' in row 1 (line 2)"),
    ),
    "empty cells, `NaN`, `null`, `None`, `N/A` and `-` as missing": (
        (".csv", more("unique_tokens", "", "N/A", "-"), ""),
        (".csv", more("unique_tokens", "", "unknown", "-"), "'unknown' in row 2 (line 3)"),
    ),
    "a row without a loss is left out, counted and named": (
        (".csv", PLAIN + "d,44100000,1800000000,nan\n", "1 without a loss: row 4 (line 5) (d)"),
        (".csv", cell("loss", "9.1", "oom", "5.5"), "loss: got 'oom' in row 2 (line 3)"),
    ),
    "`diverged_step` that is empty or negative says that a run did not diverge; other runs are "
    "left out": (
        (".csv", more("diverged_step", "", "-1", "") + "d,3e6,8e7,99,12\n", "diverged: d"),
        (".csv", more("diverged_step", "", "no", ""), "diverged_step: got 'no' in row 2 (line 3)"),
    ),
    "names that leave no doubt, as `tokens_seen`, `eval/loss` and `non_embedding_params`, are "
    "guessed and shown": (
        (".csv", name("tokens", "tokens_seen"), "tokens_seen as tokens"),
        (".csv", more("eval/loss", "1", "2", "3").replace("loss,", "val_loss,"), "or eval/loss?"),
    ),
    "`params`, `N` or `size` alone is asked about: embeddings counted or not": (
        (".csv", name("params_total", "total_params"), "total_params as params_total"),
        (".csv", name("params_total", "N"), "--columns='N=params_total', or =params_non_embedding"),
    ),
    "steps without tokens are asked about: how many tokens in each": (
        (".csv", more("step", "1", "2", "9"), ""),
        (".csv", STEPS, "--columns='step=tokens[TOKENS_PER_STEP]'"),
    ),
    "bits and perplexities are asked about, and made nats by `loss[bits]` and `loss[perplexity]`": (
        (".csv", name("loss", "loss (nats)"), "loss (nats) as loss"),
        (".csv", name("loss", "val_ppl"), "--columns='val_ppl=loss[perplexity]', or =loss"),
    ),
    "units in a name, as in `tokens (B)` and `params_millions`": (
        (
            ".csv",
            cell("tokens", "0.038", "0.088", "0.9").replace("tokens", "tokens (B)"),
            "tokens (B) as tokens[B]",
        ),
        (
            ".csv",
            cell("tokens", "0.038", "0.088", "0.9").replace("tokens", "tokens_seen"),
            "in which unit?",
        ),
    ),
}
COLUMNS = {
    "`--columns` gives any column any meaning, with its unit, as in `size=params_total[M]`": (
        cell("params_total", "1.9", "1.9", "44.1").replace("params_total", "size"),
        {"size": "params_total[M]"},
        {"size": "params_total[miles]"},
        "with k, M, B, T",
    ),
    """a name with a comma stands in double quotes, as in `--columns='"loss, nats"=loss'`""": (
        name("loss", '"NLL, mean"'),
        {"NLL, mean": "loss"},
        {"NLL": "loss"},
        "one of run, params_total, tokens, NLL, mean",
    ),
}
COLUMNS["mean log-likelihoods are asked about, and made nats by `loss[log_likelihood]`"] = (
    cell("loss", "-9.1", "-8.25", "-5.5").replace("loss", "log_likelihood"),
    {"log_likelihood": "loss[log_likelihood]"},
    {},
    "a mean log-likelihood of a token?; accepted: --columns='log_likelihood=loss[log_likelihood]'",
)
WHERE = (
    "`--where` takes rows by a condition, with names in backquotes where they are no plain words"
)
NOTICED = {
    "units mixed within a column are refused, with the rows": (
        cell("params_total", "1900000", "1.9", "44100000"),
        "params_total: got 1.9 in row 2 (line 3)",
    ),
    "steps given as tokens, perplexities, and counts in millions or billions": (
        cell("tokens", "190", "430", "2500"),
        "steps given as tokens",
    ),
    "counts below one are refused until their unit is named": (
        cell("tokens", "0.038", "0.088", "0.9"),
        "--columns='tokens=tokens[B]' if they are in billions",
    ),
    "a loss that is the logarithm to base 2 of a perplexity beside it, or equal to it": (
        more("val_ppl", *(f"{2 ** float(row[3]):.6g}" for row in ROWS)),
        "loss: log2 of val_ppl, in bits? --columns='loss=loss[bits]'",
    ),
    "losses that rise from runs to larger ones with more tokens": (
        cell("loss", "9.1", "8.25", "11.5"),
        "loss: rises by more than 10%",
    ),
    "rows that repeat others, also under other names, are dropped and counted": (
        table(rows=(*ROWS, ("d", *ROWS[0][1:]))),
        "equal to other rows in all but run: 1",
    ),
    "runs that crashed or are still running, by a column `State` or `status`": (
        more("State", "finished", "crashed", "running"),
        "State: 1 crashed, 1 running among the rows",
    ),
}
CHART = "a chart's export from Weights & Biases, a column a run: its last value, all for `schedule`"
CURVES = "curves whose steps go back or whose loss ends higher"


def typed():
    frame = pd.DataFrame(ROWS, columns=NAMES)
    return frame.astype({n: float for n in NAMES[1:]})


def workbook(file, *sheets):
    pytest.importorskip("openpyxl")
    with pd.ExcelWriter(file) as out:
        for sheet in sheets:
            typed().to_excel(out, sheet_name=sheet, index=False)


def store(folder, *studies):
    for study in studies:
        (folder / "studies" / study).mkdir(parents=True)
        typed().to_parquet(folder / "studies" / study / "runs.parquet")


def written(folder, ending, content):
    file = folder / f"table{ending}"
    if callable(content):
        content(file)
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def checked(runs):
    frame = runs.frame.sort_values("run")
    assert frame["run"].to_list() == ["a", "b", "c"]
    for place, column in enumerate(NAMES[1:], 1):
        assert np.allclose(frame[column], [float(row[place]) for row in ROWS], rtol=1e-6)


def test_the_page_lists_what_is_tested_and_nothing_else():
    lines = [line[2:] for line in PAGE.read_text().splitlines() if line.startswith("- ")]
    lines.remove(CHART)
    assert lines == [*LINES, *COLUMNS, WHERE, *NOTICED, CURVES]


@pytest.mark.parametrize("line", LINES)
def test_a_file_as_the_line_says_is_read_and_another_is_not(tmp_path, line):
    (ending, right, said), (other, wrong, told) = LINES[line]
    runs = Observations.read(written(tmp_path, ending, right))
    checked(runs)
    assert any(said in note for note in runs.notes) if said else not runs.notes
    (tmp_path / "wrong").mkdir()
    file = written(tmp_path / "wrong", other, wrong)
    try:
        found = " ".join(Observations.read(file).notes)
    except Refused as error:
        found = str(error)
    assert told in found and "\n" not in found


@pytest.mark.parametrize("line", COLUMNS)
def test_columns_mean_what_they_are_said_to_mean(tmp_path, line):
    content, right, wrong, told = COLUMNS[line]
    file = written(tmp_path, ".csv", content)
    checked(Observations.read(file, right))
    with pytest.raises(Refused) as refused:
        Observations.read(file, wrong)
    assert told in str(refused.value)


def test_rows_are_taken_by_a_condition_on_their_names_or_ours(tmp_path):
    rows = (*ROWS, ("d", "1", "none yet", "0.1"))
    frame = more("my state", "done", "done", "done", "crashed", rows=rows)
    file = written(tmp_path, ".csv", frame.replace("tokens", "tokens_seen"))
    for where in ("`my state` == done", "run != d and `my state` in (done, other)", "loss > 1"):
        checked(Observations.read(file, where=where))
    assert len(Observations.read(file, where="tokens_seen > 5e7 and `my state` == done")) == 2
    with pytest.raises(Refused, match=r"tokens_seen: got 'none yet' in row 4 \(line 5\)"):
        Observations.read(file)
    with pytest.raises(Refused, match="where: got my states"):
        Observations.read(file, where="`my states` == done")


def test_a_chart_s_export_is_read_as_its_runs(tmp_path):
    heads = [f"{run} - eval/loss{end}" for run in "ab" for end in ("", "__MIN", "__MAX")]
    lines = ["Step,6,6,6,5,5,5".replace("Step", step) for step in ("100", "200")]
    text = "\n".join([",".join(["Step", *heads]), *lines, ""])
    file = written(tmp_path, ".csv", text)
    frame, notes = read_table(file, {"Step": "tokens[1e6]"}, needs=("tokens", "loss"))
    assert frame[["run", "tokens", "loss"]].to_numpy().tolist() == [["a", 2e8, 6], ["b", 2e8, 5]]
    assert any("a chart of 2 runs" in note for note in notes)
    with pytest.raises(Refused, match="a chart of eval/loss, lr; accepted: a chart of one of them"):
        read_table(written(tmp_path, ".csv", text.replace("b - eval/loss", "b - lr")))


@pytest.mark.parametrize("line", NOTICED)
def test_what_looks_wrong_is_noticed(tmp_path, line):
    wrong, told = NOTICED[line]
    assert not Observations.read(written(tmp_path, ".csv", PLAIN)).notes
    try:
        found = " ".join(Observations.read(written(tmp_path, ".csv", wrong)).notes)
    except Refused as error:
        found = str(error)
    assert told in found


def test_curves_that_go_back_or_up_are_noticed(tmp_path):
    lines = [f"a,{step},{4 - step / 100},1e-3" for step in (10, 20, 30, 30, 20, 40)]
    lines += [f"b,{step},{3 + step / 100},1e-3" for step in (10, 20, 30)]
    lines += [f"c,{step},{4 - step / 100},1e-3" for step in (10, 20, 30)]
    file = written(tmp_path, ".csv", "\n".join(["run,step,loss,lr", *lines]))
    frame, notes = read_table(file, needs=("step", "loss", "learning_rate"), curves="run")
    assert len(frame) == 12 and "learning_rate" in frame
    assert [note.split(":")[0] for note in notes[1:]] == ["run a", "run b"]
    assert "steps go back 1 times, 2 are there twice" in notes[1]


def test_other_packers_are_read_too(tmp_path):
    checked(Observations.read(written(tmp_path, ".csv.bz2", bz2.compress(PLAIN.encode()))))
