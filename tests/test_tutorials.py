"""What types the tutorials: a wrong figure, a line that was not printed, a checkout are found."""

import pytest

from tests import tutorials

PRINTED = """\
trained 24 segments in 38 s
| E         | 1.81722  | 1.7789 to 1.86275    | identified |
|-----------|----------|
loss 2.3900  267.2k tokens/s
"""


def block(text: str, **marks: str) -> tutorials.Block:
    return tutorials.Block("text", text, marks)


@pytest.mark.parametrize(
    "shown, marks",
    [
        ("| E | 1.81722 | 1.7789 to 1.86275 | identified |", {}),
        ("trained 24 segments in 38 s\n…\nloss 2.3900 267.2k tokens/s", {}),
        ("loss 2.3899 267.2k tokens/s", {}),
        ("loss 2.38 267.2k tokens/s", {"close": "1%"}),
        ("trained 24 segments in 7 s", {"varies": r"in \d+ s"}),
    ],
)
def test_what_was_printed_is_found_whatever_its_spaces_and_rounding(shown, marks):
    assert tutorials.missing(block(shown, **marks), PRINTED) is None


@pytest.mark.parametrize(
    "shown, marks",
    [
        ("| E | 1.82722 | 1.7789 to 1.86275 | identified |", {}),
        ("| E | 1.81722 | 1.7789 to 1.86275 | not identified |", {}),
        ("trained 25 segments in 38 s", {"close": "10%"}),
        ("trained 25 segments in 7 s", {"varies": r"in \d+ s"}),
        ("trained 24 segments in 7 s", {}),
        ("loss 2.3900 267.2k tokens/s\ntrained 24 segments in 38 s", {}),
    ],
)
def test_a_figure_a_word_and_an_order_that_were_not_printed_are_missed(shown, marks):
    assert tutorials.missing(block(shown, **marks), PRINTED) is not None


def test_what_was_typed_fails_where_a_command_does(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(
        "```python\n# said.py\nprint(6 * 7)\n```\n```sh\npython said.py\n```\n```text\n41\n```\n"
        "```console\nexit 3\n```\n"
        "<!-- ends: 2 -->\n```sh\nexit 2\n```\n```sh\nexit 5\n```\n"
    )
    monkeypatch.setattr(tutorials, "ROOT", tmp_path)
    faults = tutorials.typed("page.md", tutorials.environment(None), show=False)
    assert len(faults) == 2
    assert "41" in faults[0] and "42" in faults[0]
    assert "ended with code 5" in faults[1]
    assert "page.md: 4 blocks, 1 lines shown" in capsys.readouterr().out


@pytest.mark.parametrize("cluster", [False, True])
def test_what_needs_a_cluster_is_left_out_without_one(tmp_path, monkeypatch, capsys, cluster):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(
        "<!-- needs: slurm -->\n```sh\necho 6\n```\n<!-- needs: slurm -->\n```text\n7\n```\n"
    )
    monkeypatch.setattr(tutorials, "ROOT", tmp_path)
    here = tutorials.environment(None) | ({"SLURM_CONF": "there"} if cluster else {})
    faults = tutorials.typed("page.md", here, show=False)
    assert len(faults) == cluster  # It prints 6, where 7 is shown.
    assert ("1 blocks left out" in capsys.readouterr().out) != cluster


def test_an_environment_that_takes_the_package_from_this_checkout_is_refused(monkeypatch):
    monkeypatch.chdir(tutorials.ROOT)
    environment = tutorials.environment(None) | {"PYTHONPATH": str(tutorials.ROOT)}
    with pytest.raises(SystemExit, match="is no installed wheel"):
        tutorials.refuse_checkout(environment)


def test_every_tutorial_shows_what_its_commands_print():
    for name in tutorials.PAGES:
        blocks = tutorials.blocks((tutorials.ROOT / "docs" / name).read_text("utf-8"))
        assert sum(block.kind == "sh" for block in blocks) >= 2, name
        assert sum(block.kind == "text" for block in blocks) >= 2, name
