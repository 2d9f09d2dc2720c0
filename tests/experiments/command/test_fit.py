"""The options of `espalier fit` are those of a fit, listed once."""

from pathlib import Path

import pytest

from experiments.command.fit import Budgets, command, option_fields
from experiments.command.options import Columns, Number
from fitting.objective import OBJECTIVES
from fitting.observations import Observations
from fitting.options import fields
from refused import Refused
from tests.experiments.command.test_main import CHINCHILLA, call


def test_every_option_of_a_fit_is_a_flag_with_its_default_and_kind():
    assert [f.name for f in option_fields()] == [f.name for f in fields()]
    found = {option.name: option for option in command.params}
    for field in fields():
        option, kind = found[field.name], field.metadata["kind"]
        assert option.is_flag == (kind is bool)
        if kind is not bool:
            assert option.default == field.default
            assert (option.type.kind if isinstance(option.type, Number) else str) is kind


def test_the_help_names_every_objective():
    (objective,) = (field for field in fields() if field.name == "objective")
    assert set(objective.metadata["help"].replace(" or ", ", ").split(", ")) == set(OBJECTIVES)


def test_what_is_asked_reaches_the_fit(capsys, monkeypatch):
    asked = []
    told = lambda *args, **more: asked.append((args, more)) or "the report"
    monkeypatch.setattr("fitting.report.fit_report", told)
    options = ("--point-only", "--objective=lad", "--fixed=E=1.7", "--draws=7", "--level=.8")
    options += ("--share=alpha,",)
    where = (
        "--columns=size=params_total",
        "--out=~/x",
        "--flops=1e21,2e21",
        "--ask=a",
        "--ask=b",
        "--by=c",
        "--where=params > 3",
    )
    assert call(capsys, *CHINCHILLA, *options, *where) == (0, "the report\n", "")
    (((law, table, found), more),) = asked
    assert (law, table) == ("chinchilla", "published:chinchilla")
    assert (found.point_only, found.objective, found.draws, found.level) == (True, "lad", 7, 0.8)
    assert found.fixed == {"E": 1.7} and found.held_out is None
    assert more.pop("out") == str(Path("~/x").expanduser()) and more == dict(
        columns={"size": "params_total"},
        flops=[1e21, 2e21],
        ask=("a", "b"),
        by="c",
        where="params > 3",
        share=["alpha"],
    )


def test_a_formula_is_a_law_of_the_table(capsys, tmp_path):
    rows = [f"{x:g},{2 + 50 * x**-0.3!r},{x > 3e3}" for x in (1e2, 1e3, 1e4, 1e5, 1e6, 1e7)]
    file = tmp_path / "runs.csv"
    file.write_text("\n".join(["depth,loss,kept", *rows]))
    given = ("fit", "--formula=E + A*depth**-a", "--bounds=a=.1:1", f"--table={file}")
    code, text, _ = call(capsys, *given, "--point-only", "--where=kept", "--audits=2")
    assert code == 0 and "loss = E + A * depth ** (-a)" in text and "4 runs" in text
    code, _, told = call(capsys, *given, "--law=chinchilla")
    assert code == 2 and "--law: got both" in told
    code, _, told = call(capsys, "fit", f"--table={file}", "--formula=E + A*deepth**-a")
    assert code == 2 and "depth" in told


def test_columns_and_budgets_are_read():
    assert Columns().convert("size=params_total,,n=tokens", command.params[2], None) == {
        "size": "params_total",
        "n": "tokens",
    }
    assert Budgets().convert("1e21,5", command.params[4], None) == [1e21, 5.0]
    for kind, text in ((Columns(), "a"), (Columns(), "=b"), (Budgets(), "many")):
        with pytest.raises(Refused, match=f": got {text}; accepted: "):
            kind.convert(text, command.params[2], None)


def test_an_export_is_read_by_its_names_or_refused_with_the_line_to_use(
    capsys, tmp_path, monkeypatch
):
    lines = ['"Name","State","params","tokens_seen","eval/loss","train/loss"']
    for size in (2e7, 5e7, 2e8):
        for ratio in (5, 20, 80):
            loss = 1.7 + 430 / size**0.34 + 440 / (size * ratio) ** 0.29
            row = (f"frog-{len(lines)}", "finished", f"{size:.0f}", f"{size * ratio:.0f}")
            lines.append(",".join(f'"{cell}"' for cell in (*row, f"{loss:.5f}", "1")))
    lines.append('"frog-10","crashed","20000000","","",""')
    file = tmp_path / "export.csv"
    file.write_text("\n".join(lines))
    given = ("fit", "--law=chinchilla_no_floor", f"--table={file}", "--point-only", "--audits=0")
    given += ("--where=State == finished",)
    code, _, said = call(capsys, *given)
    line = "--columns='params=params_total,tokens_seen=tokens,eval/loss=loss'"
    assert code == 2 and f"accepted: {line}, or =params_non_embedding" in said
    code, text, said = call(capsys, *given, line.replace("'", ""))
    assert code == 0 and "# chinchilla_no_floor: 9 runs" in text and "guessed" not in said
    monkeypatch.setattr(
        "fitting.report.fit_report",
        lambda law, table, *_, columns, where, **__: "\n".join(
            Observations.read(table, columns, where).notes
        ),
    )
    code, text, _ = call(capsys, *given, "--columns=params=params_total")
    assert "columns guessed by their names: tokens_seen as tokens, eval/loss as loss" in text
