"""The default corpus: how text is taken from wheels, and that it is the pinned one."""

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from data import load, wheels
from data.tokenizer import BPE, tokenizer_of
from refused import Refused

SOURCE = '''"""The module.

    Indented prose that goes on for long enough to be a document.
"""
import os

class A:
    r"""Raw \\d."""
    x = """kept"""

    def method(self):
        """Only this."""

def f(): "short"; return 1
'''


@pytest.fixture
def wheel(tmp_path):
    file = tmp_path / "sample-1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(64):
            archive.writestr(f"sample/m{index}.py", SOURCE + f"y = {index}\r\n" * 9)
            archive.writestr(
                f"sample/tests/test_m{index}.py", f"def test():\n    assert {index}\n" * 9
            )
            archive.writestr(f"sample/include/m{index}.hpp", f"#define M{index}\n" * 9)
            archive.writestr(f"networkx/m{index}.py", f"z = {index}\n" * 20)
        archive.writestr("sample/broken.py", "def (:\n" * 20)
        archive.writestr("sample/zero.py", "x = '\0'\n" * 20)
        archive.writestr("sample/latin.py", b"x = '\xe9'\n" * 20)
        archive.writestr("sample/copy.py", SOURCE + "y = 5\n" * 9)
    return file


def test_docstrings_go_to_prose_and_code_keeps_other_strings():
    code, prose = wheels.without_docstrings(SOURCE.encode())
    long = b"Indented prose that goes on for long enough to be a document."
    assert prose == b"\n\n".join([b"The module.", long, b"Raw \\d.", b"Only this.", b"short\n"])
    assert b'"""kept"""' in code and b"Only this" not in code and b"short" not in code
    assert b"return 1" in code and b"def f():" in code


def test_kinds_are_disjoint_and_split_by_source_file(wheel, tmp_path):
    corpus = wheels.build(tmp_path / "built", [wheel], None)
    text = {
        (name, split): bytes(getattr(domain, split))
        for name, domain in corpus.domains.items()
        for split in ("train", "held_out")
    }
    assert corpus.main == ("code", "docs", "headers", "tests")
    assert b"#define" in text["headers", "train"] and b"assert" in text["tests", "train"]
    assert b"def (:" not in text["code", "train"] + text["code", "held_out"]
    assert b"\r" not in text["code", "train"] and b"z = 1" in text["networkx", "train"]
    documents = {key: [d for d in value.split(b"\0") if d] for key, value in text.items()}
    for name in corpus.domains:
        both = documents[name, "train"] + documents[name, "held_out"]
        assert len(set(both)) == len(both), name
    # The copy is dropped; all prose is the same here and stands once.
    assert len(documents["code", "train"]) + len(documents["code", "held_out"]) == 64
    assert len(documents["docs", "train"]) + len(documents["docs", "held_out"]) == 1
    for index in range(64):
        held = wheels.held_out(f"sample/m{index}.py")
        assert (f"y = {index}\n".encode() in text["code", "held_out"]) == held


def test_the_bpe_corpus_is_the_same_text_and_learns_from_the_main_training_documents_alone(
    wheel, tmp_path
):
    source = wheels.build(tmp_path / "bytes", [wheel], None)
    corpus = wheels.build_bpe(tmp_path / "bpe", source, 300, None)
    bpe = tokenizer_of(corpus)
    assert corpus.vocabulary == 300 and corpus.main == source.main
    for name, domain in corpus.domains.items():
        for split in ("train", "held_out"):
            text = bytes(getattr(source.domains[name], split))
            assert bpe.decode(getattr(domain, split).tolist()) == text
            before, after = source.domains[name].counts(split), domain.counts(split)
            assert after["bytes"] == before["bytes"]
            assert after["documents"] == before["documents"]
            assert after["tokens"] < before["tokens"] or not before["tokens"]
    texts = [
        text for name in source.main for text in bytes(source.domains[name].train).split(b"\0")[1:]
    ]
    assert BPE.train(texts, 300) == bpe


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", [4096, 65536])
def test_the_bpe_corpora_are_the_pinned_ones(vocabulary, tmp_path):
    pinned = json.loads(wheels.MANIFEST.read_text())["bpe"][str(vocabulary)]
    corpus = wheels.build_bpe(tmp_path / "bpe", load("wheels"), vocabulary, None)
    assert corpus.content_hash == pinned["content_hash"]
    for name, counts in pinned["domains"].items():
        for split in ("train", "held_out"):
            assert corpus.domains[name].counts(split)["tokens"] == counts[f"{split}_tokens"]


def test_the_default_corpus_is_the_pinned_one():
    pinned = json.loads(wheels.MANIFEST.read_text())
    corpus = load("wheels")
    assert corpus.content_hash == pinned["content_hash"]
    for name, counts in pinned["domains"].items():
        domain = corpus.domains[name]
        assert domain.train_tokens == counts["train_tokens"]
        assert domain.held_out_tokens == counts["held_out_tokens"]
        if name in corpus.main:
            assert domain.train_tokens >= 4_000_000
    assert wheels.TARGET in corpus.domains and wheels.TARGET not in corpus.main


def test_every_wheel_is_locked_with_its_hash_and_a_permissive_licence():
    lock = wheels.LOCK.read_text()
    for wheel in json.loads(wheels.MANIFEST.read_text())["wheels"]:
        assert f"{wheel['name']}=={wheel['version']} --hash=sha256:{wheel['sha256']}" in lock
        assert wheel["file"].endswith("-py3-none-any.whl")
        assert wheel["licence"].split("-")[0] in ("BSD", "Apache", "MIT")


def test_wheels_that_cannot_be_fetched_are_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(Refused, match="corpus wheels: got no download") as refused:
        wheels.fetch(tmp_path / "downloads")
    assert "\n" not in str(refused.value)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_downloads_appear_whole_and_replace_damaged_ones(tmp_path, monkeypatch):
    downloads = tmp_path / "downloads"
    name, content = "sample-1-py3-none-any.whl", b"whole"
    manifest = {"wheels": [{"file": name, "sha256": hashlib.sha256(content).hexdigest()}]}
    (tmp_path / "wheels.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(wheels, "MANIFEST", tmp_path / "wheels.json")
    downloads.mkdir()
    (downloads / name).write_bytes(b"who")

    def pip(command, **_):
        destination = Path(command[command.index("--dest") + 1])
        (destination / name).write_bytes(content[:2])
        assert (downloads / name).read_bytes() == b"who"  # nothing half-copied in place
        (destination / name).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert wheels.fetch(downloads) == [downloads / name]
    assert (downloads / name).read_bytes() == content and len(list(downloads.iterdir())) == 1
