"""The default corpus: the text of a few locked, permissively licensed wheels, by kind.

`wheels.lock` names the wheels with their hashes, `wheels.json` their licences and what the build
must give. They are pure Python wheels, one file for every machine, and the extraction uses only
positions of the syntax tree, so the corpus is the same bytes on every machine and Python.
"""

import ast
import hashlib
import json
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data.corpus import SPLITS, Corpus, open_corpus, text_document, write_corpus
from data.tokenizer import BPE
from refused import Refused

HERE = Path(__file__).parent
LOCK, MANIFEST = HERE / "wheels.lock", HERE / "wheels.json"

VERSION = 1  # Of the extraction: raised when the same wheels give other documents.
BPE_VERSION = 1  # Of the BPE corpora: raised when the same documents give other tokens.

MAIN = ("code", "docs", "headers", "tests")

# A package whose code is in no other domain: a target that the default mixture never trains on.
TARGET = "networkx"

HEADERS = (".h", ".hpp", ".hxx")
DOMAIN_BYTES = 9_000_000  # Text per domain at most, both splits: building stays a few seconds.
SMALLEST_DOCUMENT = 64  # Bytes; below are empty `__init__` files and one-word docstrings.
LARGEST_DOCUMENT = 200_000  # Bytes; above are generated tables, which would fill a domain.
HELD_OUT_SHARE = 16  # One source file in so many is held out.


def load(cache: Path) -> Corpus:
    """Opens the default corpus, after fetching wheels and building it where it is missing.

    Raises:
      Refused: wheels that cannot be fetched, or a content other than the pinned one.
    """
    path = cache / f"wheels-{VERSION}"
    expected = json.loads(MANIFEST.read_text())["content_hash"]
    if not (path / "corpus.json").exists():
        return build(path, fetch(cache / "downloads"), expected)
    return open_pinned(path, expected)


def load_bpe(cache: Path, vocabulary: int) -> Corpus:
    """Opens the default corpus in BPE tokens, after training and encoding where it is missing.

    Documents, domains and the held-out side are those of the default corpus. The merges are
    learned from all training documents of the main domains, and from nothing held out.

    Raises:
      Refused: a vocabulary that cannot be trained, or a content other than the pinned one.
    """
    path = cache / f"wheels-{VERSION}-bpe{vocabulary}-{BPE_VERSION}"
    pinned = json.loads(MANIFEST.read_text())["bpe"].get(str(vocabulary), {})
    expected = pinned.get("content_hash")
    if (path / "corpus.json").exists():
        return open_pinned(path, expected)
    return build_bpe(path, load(cache), vocabulary, expected)


def open_pinned(path: Path, expected: str | None) -> Corpus:
    """Opens a built corpus; `Refused` where its content is not the pinned one."""
    corpus = open_corpus(path, noted=False)
    if expected not in (None, corpus.content_hash):
        accepted = f"{expected}; remove the folder to rebuild it"
        raise Refused(f"corpus {path}", f"content hash {corpus.content_hash}", accepted)
    return corpus


def fetch(folder: Path) -> list[Path]:
    """Returns the locked wheels' files, downloading with pip what is not there.

    Raises:
      Refused: pip failed; the message carries its last line.
    """
    wheels = json.loads(MANIFEST.read_text())["wheels"]
    files = [folder / wheel["file"] for wheel in wheels]
    sound = lambda file, wheel: (
        file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == wheel["sha256"]
    )
    if all(map(sound, files, wheels)):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    # pip copies files into place bit by bit; renaming them shows whole files to other builders.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as fetched:
        command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--dest", fetched]
        command += ["--disable-pip-version-check", "--no-deps", "--require-hashes"]
        command += ["--only-binary=:all:", "--requirement", str(LOCK)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
            raise Refused(
                "corpus wheels",
                f"no download ({said[-1].strip()[:200]})",
                "a package index for pip",
            )
        for file in Path(fetched).iterdir():
            file.replace(folder / file.name)
    bad = [f.name for f, wheel in zip(files, wheels, strict=True) if not sound(f, wheel)]
    if bad:
        raise Refused("corpus wheels", f"{', '.join(bad)} missing or damaged", "the locked files")
    return files


def build(path: Path, wheels: list[Path], expected_hash: str | None) -> Corpus:
    """Builds the corpus from wheel files into `path`."""
    documents: dict[str, dict[str, bytes]] = {name: {} for name in (*MAIN, TARGET)}
    for wheel in wheels:
        for source, text in texts(wheel):
            for domain, document in split_kinds(source, text).items():
                if SMALLEST_DOCUMENT <= len(document) <= LARGEST_DOCUMENT:
                    documents[domain][source] = document
    domains = {}
    for name, found in documents.items():
        chosen = choose(found)
        domains[name] = {
            split: [text_document(found[s]) for s in chosen if held_out(s) == (split == "held_out")]
            for split in ("train", "held_out")
        }
    return write_corpus(
        path,
        name="wheels",
        vocabulary=256,
        separator=0,
        tokenizer="bytes",
        domains=domains,
        main=MAIN,
        expected_hash=expected_hash,
    )


def build_bpe(path: Path, source: Corpus, vocabulary: int, expected_hash: str | None) -> Corpus:
    """Builds a corpus of bytes anew in BPE tokens into `path`."""
    texts = lambda domain, split: getattr(source.domains[domain], split).tobytes().split(b"\0")[1:]
    bpe = BPE.train((text for name in source.main for text in texts(name, "train")), vocabulary)
    return write_corpus(
        path,
        name=f"{source.name}-bpe{vocabulary}",
        vocabulary=bpe.vocabulary,
        separator=bpe.separator,
        tokenizer=bpe.name,
        tokenizer_json=bpe.json,
        domains={
            name: {split: bpe.documents(texts(name, split)) for split in SPLITS}
            for name in source.names
        },
        main=source.main,
        expected_hash=expected_hash,
    )


def texts(wheel: Path) -> Iterator[tuple[str, bytes]]:
    """Yields (path in the wheel, text) of the Python files and headers, newlines normalised.

    Files that are not UTF-8 or contain byte 0 are left out.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith((".py", *HEADERS)):
                continue
            text = archive.read(name).removeprefix(b"\xef\xbb\xbf")
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            try:
                text.decode("utf-8")
            except UnicodeDecodeError:
                continue
            if b"\0" not in text:
                yield name, text


def split_kinds(source: str, text: bytes) -> dict[str, bytes]:
    """Returns the documents that a source file gives, by domain."""
    path = PurePosixPath(source)
    if path.suffix in HEADERS:
        return {"headers": text}
    test = "tests" in path.parts or path.name.startswith("test_") or path.name == "conftest.py"
    if path.parts[0] == TARGET:
        parted = None if test else without_docstrings(text)
        return {} if parted is None else {TARGET: parted[0]}
    if test:
        return {"tests": text}
    parted = without_docstrings(text)
    return {} if parted is None else {"code": parted[0], "docs": parted[1]}


def without_docstrings(text: bytes) -> tuple[bytes, bytes] | None:
    """Parts Python source into its code and its docstrings as prose; None where it cannot.

    Only positions of the syntax tree are used: how values of strings are read, and which escapes
    are warned of, differs between Pythons.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    lines = text.split(b"\n")
    prose, gone = [], []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
            continue
        if isinstance(first.value.value, str):
            gone.append(
                (first.lineno - 1, first.col_offset, first.end_lineno, first.end_col_offset)
            )
    for begin, left, end, right in sorted(gone):
        block = lines[begin:end]
        block[-1] = block[-1][:right]
        block[0] = block[0][left:]
        prose.append(dedent(unquote(b"\n".join(block))))
    for begin, left, end, right in sorted(gone, reverse=True):
        rest = lines[begin][:left].rstrip() + lines[end - 1][right:].rstrip()
        lines[begin:end] = [rest] if rest.strip(b" ;") else []
    return b"\n".join(lines), b"\n\n".join(p for p in prose if p) + b"\n"


def unquote(literal: bytes) -> bytes:
    """Strips a string literal's prefix and quotes; adjacent literals keep their inner quotes."""
    literal = literal.lstrip(b"rRuUbB(").rstrip(b")")
    for quote in (b'"""', b"'''", b'"', b"'"):
        if literal.startswith(quote):
            return literal.removeprefix(quote).removesuffix(quote)
    return literal


def dedent(prose: bytes) -> bytes:
    """Strips the indentation that the lines after the first share, and blank ends."""
    first, *rest = (line.rstrip() for line in prose.expandtabs().split(b"\n"))
    margins = [len(line) - len(line.lstrip()) for line in rest if line]
    margin = min(margins, default=0)
    return b"\n".join([first.lstrip(), *(line[margin:] for line in rest)]).strip(b"\n ")


def choose(documents: dict[str, bytes]) -> list[str]:
    """Picks sources in the order of their hash, without exact duplicates, up to `DOMAIN_BYTES`."""
    chosen, seen, size = [], set(), 0
    for source in sorted(documents, key=digest):
        content = hashlib.sha256(documents[source]).digest()
        if content in seen:
            continue
        if size + len(documents[source]) > DOMAIN_BYTES:
            continue
        seen.add(content)
        chosen.append(source)
        size += len(documents[source])
    return chosen


def digest(source: str) -> bytes:
    """Hashes a source file's path: its place in the corpus and its side of the split."""
    return hashlib.sha256(source.encode()).digest()


def held_out(source: str) -> bool:
    """Says whether a source file, in all that it gives, is held out."""
    return digest(source)[-1] % HELD_OUT_SHARE == 0
