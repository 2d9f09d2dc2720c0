"""The corpus commands: a corpus of one's own text is built, shown and planned with."""

import json

import pytest

from data.build import Silent
from data.tokenizer import BPE
from experiments.command.corpora import matches, unescaped
from tests.corpora import small_corpus
from tests.data.test_build import sentences
from tests.experiments.command.test_main import STUDY, call


@pytest.fixture
def folder(tmp_path):
    for domain in ("code", "web"):
        lines = [json.dumps({"text": text * 20}) for text in sentences(len(domain), 900)]
        (tmp_path / domain).mkdir()
        (tmp_path / domain / "a.jsonl").write_text("\n".join(lines[:500]))
        (tmp_path / domain / "b.jsonl").write_text("\n".join(lines[400:]))
    return tmp_path


def test_a_corpus_is_built_shown_and_planned_with(folder, capsys):
    path = folder / "mine"
    command = ("corpus", "build", "--name=mine", f"--out={path}", "--workers=1")
    wanted = ("--domain", f"code={folder}/code/*.jsonl", f"--domain=web={folder}/**/web/*.jsonl")
    code, out, err = call(capsys, *command, *wanted)
    assert (code, err) == (0, "")
    assert "2000 documents read, 200 duplicates left out, 1800 kept; 0 bad left out" in out
    record = json.loads((path / "corpus.json").read_text())
    code, shown, _ = call(capsys, "corpus", "show", f"--name={path}")
    assert code == 0 and shown.strip() in out
    assert record["content_hash"] in shown and "tokenizer bytes, 256 tokens" in shown
    for split in ("train", "held_out"):
        assert f"{record['domains']['web'][split]['tokens']:,}" in shown
    settings = (f"--config.corpus={path}",)
    small = ("--config.widths=(16,)", "--config.seeds=(1,)", "--config.tokens=(20480,40960)")
    small += ("--config.warmup_tokens=2048", "--config.evaluation_tokens=1024")
    code, out, err = call(capsys, "plan", STUDY, *settings, *small, f"--store={folder / 's'}")
    assert code == 0 and "epochs per domain" in out, err
    code, _, err = call(capsys, *command, *wanted)
    assert code == 2 and "which is there" in err and err.count("\n") == 1


def test_bad_input_is_named_in_a_line_each_and_refused_or_skipped(folder, capsys):
    bad = folder / "web" / "c.jsonl"
    bad.write_bytes(b'{"body": 1}\n{"text": "\xff"}\n{"text": "\xfe"}\n')
    command = ("corpus", "build", "--name=mine", f"--out={folder / 'mine'}", "--workers=1")
    command += (f"--domain=web={folder}/web/*",)
    named = f"bad: {bad}: no field 'text' at line 1\nbad: {bad}: broken UTF-8 (2 times, first at"
    code, out, err = call(capsys, *command)
    assert code == 2 and out == "" and err.startswith(named) and err.count("\n") == 3
    assert err.splitlines()[-1].startswith("espalier: input: got 3 bad")
    assert not (folder / "mine").exists()
    code, out, err = call(capsys, *command, "--on-bad=skip")
    assert code == 0 and err.startswith(named) and "3 bad left out" in out


def test_domains_have_their_own_fields_and_empty_files_are_counted(folder, capsys):
    lines = [json.dumps({"content": text * 20}) for text in sentences(9, 900)]
    (folder / "code" / "c.JSON").write_text("\n".join(lines))
    (folder / "code" / "none.jsonl").write_text("")
    command = ("corpus", "build", "--name=mine", f"--out={folder / 'mine'}", "--workers=1")
    command += (f"--domain=code={folder}/code/[cn]*", f"--domain=web={folder}/web/*")
    code, out, err = call(capsys, *command, "--field=code=content")
    assert (code, err) == (0, "")
    assert "1900 documents read, 100 duplicates" in out and "1 empty files left out" in out
    code, _, err = call(capsys, *command, "--field=cod=content")
    assert code == 2 and "field: got cod=content; accepted: DOMAIN=VALUE of code, web" in err


def test_a_setting_of_a_tokenizer_that_is_switched_off_is_noted(folder, capsys):
    spec = json.loads(BPE.train([text.encode() for text in sentences(1, 50)], 290).json)
    spec["model"]["dropout"] = 0.1
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(spec))
    command = ("corpus", "build", "--name=mine", f"--out={folder / 'mine'}", "--workers=1")
    command += (f"--domain=web={folder}/web/*", f"--tokenizer={file}")
    code, _, err = call(capsys, *command)
    assert code == 0 and err == f"note: {file}: model.dropout of 0.1 switched off\n"


def test_near_duplicates_are_left_out_where_that_is_asked(folder, capsys):
    pytest.importorskip("datasketch", reason="pip install 'espalier[near]'")
    command = ("corpus", "build", "--name=mine", f"--out={folder / 'mine'}", "--workers=1")
    command += (f"--domain=web={folder}/web/a*",)
    code, _, err = call(capsys, *command, "--near-duplicates=2")
    assert code == 2 and "near_duplicates: got 2.0; accepted: a likeness above 0" in err
    code, out, err = call(capsys, *command, "--near-duplicates=0.8")
    assert (code, err) == (0, "")
    # All are of one sentence twenty times, which no other has.
    assert "500 documents read, 0 duplicates left out, 0 near-duplicates left out, 500 kept" in out


def test_built_corpora_are_listed_with_those_that_cannot_be_used(folder, capsys):
    small = small_corpus(folder / "all")
    (folder / "all" / "broken").mkdir()
    (folder / "all" / "broken" / "corpus.json").write_text("{}")
    code, out, _ = call(capsys, "corpus", "list", f"--out={folder / 'all'}")
    assert code == 0 and str(folder / "all" / "small") in out.replace("\n", "")
    assert small.content_hash[:12] in out and "unreadable: corpus: got" in out
    code, out, _ = call(capsys, "corpus", "list", f"--out={folder / 'web'}")
    assert (code, out) == (0, f"no corpus in {folder / 'web'}\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["corpus"], "command: got corpus; accepted: corpus build, corpus show"),
        (["corpus", "grow"], "command: got corpus grow; accepted: corpus build, corpus show"),
        (["corpus", "show", "mine"], "argument: got mine; accepted: flags only"),
        (["corpus", "show"], "--name: got nothing"),
        (["corpus", "show", "--name=nowhere"], "corpus: got 'nowhere'; accepted: wheels"),
        (["corpus", "build", "--name=mine"], "domain: got none"),
        (["corpus", "build", "--name=mine", "--domain=code"], "domain: got code; accepted: NAME"),
        (["corpus", "build", "--name=mine", "--domain=a=/nowhere/*"], "no file for /nowhere/*"),
        (["corpus", "build", "--name=mine", "--longest=0"], "longest: got 0"),
        (
            ["corpus", "build", "--name=m", "--out=gs://b/m", f"--domain=a={__file__}"],
            "out: got gs://b/m; accepted: a folder on disk; copied to a bucket",
        ),
    ],
)
def test_mistakes_get_one_line(args, message, capsys):
    code, out, err = call(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith("espalier: ") and err.count("\n") == 1 and message in err


def test_patterns_of_a_domain_add_up(folder):
    wanted = [f"x={folder}/code/a*", f"y={folder}/web/*", f"x={folder}/code/*"]
    found = matches(wanted, Silent())
    assert [len(files) for files in found.values()] == [3, 2] and list(found) == ["x", "y"]


def test_marks_are_written_as_in_a_shell():
    assert unescaped(r"a\n\t<é>") == "a\n\t<é>"


def test_a_dataset_is_a_domain_with_its_own_sides(folder, capsys):
    (folder / "code" / "a.jsonl").rename(folder / "code" / "train.jsonl")
    (folder / "code" / "b.jsonl").rename(folder / "code" / "test-0.jsonl")
    (folder / "code" / "prose.md").write_text("x")
    command = ("corpus", "build", "--name=mine", f"--out={folder / 'mine'}", "--workers=1")
    code, out, err = call(capsys, *command, f"--domain=code={folder}/code")
    assert (code, err) == (0, f"note: code: not of the dataset: prose.md in {folder / 'code'}\n")
    sides = json.loads((folder / "mine" / "corpus.json").read_text())["domains"]["code"]
    # 100 texts are in both files: they are held out.
    assert [sides[split]["documents"] for split in ("train", "held_out")] == [400, 500]
    both = (f"--domain=code={folder}/code", f"--domain=code={folder}/web/*")
    code, _, err = call(capsys, *command, *both)
    assert code == 2 and "domain 'code': got a dataset and more; accepted: one dataset" in err
    code, _, err = call(capsys, *command, f"--domain=code={folder}/code:en")
    assert code == 2 and err.count("\n") == 1 and "code:en; accepted: a README.md there" in err
