"""The documentation: its links lead somewhere, and what it tells one to write works as written."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command.arguments import flags, leaves
from experiments.command.main import espalier, root

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE = ("commands.md", "reference")  # In docs/, by generated.py when the site is built.
PACKAGES = ("experiments", "scaling", "models", "data", "fitting")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)


def copy_of_project(folder: Path) -> Path:
    """Copies the packages, without what training left."""
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "refused.py", folder)
    return folder


def put_in(file: Path, diff: list[str]) -> None:
    """Adds the lines that start with + after the line before them, which must be there."""
    text = file.read_text().split("\n")
    for before, line in zip(diff, diff[1:], strict=False):
        if line.startswith("+"):
            place = text.index(before[1:])
            text.insert(place + 1, line[1:])
    file.write_text("\n".join(text))


def sections(page: Path) -> dict[str, list[tuple[str, str]]]:
    """Returns a page's code blocks, (language, text), by the heading that they stand under."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.M)
    return {
        title: BLOCK.findall(body) for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_what_adding_something_says_works_as_written(tmp_path):
    copy, uses = copy_of_project(tmp_path), []
    for blocks in sections(ROOT / "docs" / "adding.md").values():
        for language, text in blocks:
            first, _, rest = text.partition("\n")
            named = re.fullmatch(r"# (\S+\.py)", first)
            if language == "python" and named:
                assert not (copy / named[1]).exists()
                (copy / named[1]).write_text(rest)
            elif language == "diff":
                put_in(copy / named[1], rest.rstrip("\n").split("\n"))
            elif language == "python":
                uses.append(text)
    assert len(uses) == 5
    # ruff stands for the style, and finds names that nothing imports.
    check = [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", copy]
    subprocess.run(check, check=True, capture_output=True)
    script = tmp_path / "uses.py"
    script.write_text("\n".join(uses))
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, script], env=environment, cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "SeparateDocuments(separator=0)" in done.stdout
    assert "SignSGD(learning_rate=0.001" in done.stdout
    assert "12 runs, 24 segments" in done.stdout
    assert re.search(r"'beta': (np.float64\()?1\.(2|19999)", done.stdout), done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [(page.parent / link).resolve() for link in links if "://" not in link]
    made = [ROOT / "docs" / name for name in MADE]
    there = lambda file: file.exists() or any(file.is_relative_to(folder) for folder in made)
    assert [file for file in local if not there(file)] == []


def script(name: str):
    """Imports a file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_kind_of_dead_link_of_a_site_is_found(tmp_path):
    (tmp_path / "index.html").write_text(
        '<a href="there.html#anchor">1</a> <a href="gone.html">2</a> <a href="there.html#no">3</a>'
        '<img src="no.png"> <a href="https://elsewhere.org/x">4</a> <a href="#top">5</a>'
    )
    (tmp_path / "there.html").write_text('<h2 id="anchor">there</h2>')
    (tmp_path / "orphan.html").write_text("nobody leads here")
    assert script("links").dead(tmp_path) == [
        "index.html: gone.html leads nowhere",
        "index.html: there.html#no names no anchor of there.html",
        "index.html: no.png leads nowhere",
        "index.html: #top names no anchor of index.html",
        "orphan.html: no page leads there",
    ]


def test_only_figures_too_wide_for_a_phone_are_marked_to_scroll(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")  # Where build.py finds its neighbours.
    (tmp_path / "figures").mkdir()
    for name, width in {"column": 1000, "page": 1001}.items():
        header = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + width.to_bytes(4, "big")
        (tmp_path / "figures" / f"{name}.png").write_bytes(header + bytes(4))
    text = "![a](figures/column.png) ![b](figures/page.png)"
    assert script("build").marked(text, tmp_path) == text + "{ .wide }"


def test_the_help_of_every_command_gets_its_page(tmp_path):
    script("generated").commands(tmp_path / "commands.md")
    page = (tmp_path / "commands.md").read_text()
    for name in ("plan", "fit", "launch", "corpus build", "corpus show"):
        assert f"\n## espalier {name}\n\n" in page
    assert "- `--checkpoint-seconds SECONDS` most work that a kill can undo [default: 60]\n" in page
    assert "```sh\nespalier plan --config=over_training:cpu\n" in page


def commands(page: Path) -> list[str]:
    """Returns what the blocks of a page have one type, lines that go on joined."""
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```$", page.read_text(), re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if re.match(r"(\$ )?espalier ", line)]


# The commands of mistakes.md are wrong: tests/test_mistakes.py runs them.
RIGHT = [page for page in PAGES if commands(page) and page.name != "mistakes.md"]


@pytest.mark.parametrize("page", RIGHT, ids=lambda page: page.name)
def test_every_command_of_a_page_has_the_flags_that_it_is_given(page):
    top = root()
    known = {words: set(flags(leaf, top)) for words, leaf in leaves(espalier, top)}
    for line in commands(page):
        words = line.split("#")[0].split()[1:]
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in known, line
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
        given = set(re.findall(r"(?<=\s)--[a-z][\w-]*(?![\w.-])", bare))
        assert given <= known[name] | {"--help"}, line


def test_the_picture_of_the_plan_is_that_of_its_study():
    picture = script("picture")
    assert (ROOT / "docs" / "plan.svg").read_text("utf-8") == picture.drawn(picture.planned())


def test_the_readme_is_read_in_five_minutes():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 110
    prose = re.sub(r"```.*?```|^\|.*$|!?\[|\]\([^)]*\)", "", text, flags=re.S | re.M)
    sentences = [s.split() for s in re.split(r"[.?!:]\s", prose) if s.split()]
    lengths = sorted(len(words) for words in sentences)
    assert lengths[len(lengths) // 2] <= 15


def test_the_study_that_goes_on_from_a_model_is_planned_from_its_values(corpus, tmp_path):
    from scaling import plan
    from scaling.interchange import folder
    from scaling.interchange.begin import first_state
    from tests.scaling.interchange.models import LIKE, kept

    (block,) = [
        text
        for blocks in sections(ROOT / "docs" / "models.md").values()
        for language, text in blocks
        if language == "python" and text.startswith("# continued.py")
    ]
    (tmp_path / "continued.py").write_text(block)
    folder.write(tmp_path / "model", kept(LIKE["qk_norm"]))
    found = importlib.util.spec_from_file_location("continued", tmp_path / "continued.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    config = module.get_config("cpu")
    place = next(iter(corpus.domains.values())).folder
    config.update(corpus=str(place), model=str(tmp_path / "model"), tokens=5_000)
    config.update(evaluation_tokens=128)
    study = module.study(config)
    study.check()
    planned = plan(study.runs)
    assert len(planned.runs) == 2 and len(planned.segments) == 3
    state = first_state(planned.runs[0])
    assert (state.params["head.kernel"] == kept(LIKE["qk_norm"]).params["head.kernel"]).all()
