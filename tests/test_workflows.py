"""The public CI: a file that GitHub takes, and that does what `.ci/run` does on every Python."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read(file: Path) -> dict:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with check-jsonschema")
    return yaml.load(file.read_text(), yaml.BaseLoader)  # `on` stays a word.


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_workflow_is_what_its_schema_says(file):
    package = importlib.util.find_spec("check_jsonschema")
    if package is None:
        pytest.skip("no check-jsonschema here, which brings the schema: the extra test")
    jsonschema, yaml = pytest.importorskip("jsonschema"), pytest.importorskip("yaml")
    folder = Path(package.submodule_search_locations[0]) / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "github-workflows.json").read_text("utf-8"))
    found = yaml.safe_load(re.sub(r"^on:", '"on":', file.read_text(), flags=re.M))
    jsonschema.Draft7Validator(schema).validate(found)
    broken = found | {"jobs": {"check": {"runs_on": "ubuntu-latest"}}}
    assert list(jsonschema.Draft7Validator(schema).iter_errors(broken))


def test_it_runs_what_the_checkout_runs_on_every_python_that_is_supported():
    job = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["check"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert any(step.get("run") == ".ci/run" for step in job["steps"])
    least = re.search(r"python_requires = >=(\S+)", (ROOT / "setup.cfg").read_text())[1]
    assert job["strategy"]["matrix"]["python"][0] == least
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    typed = [step.get("run", "") for step in job["steps"]] + [(ROOT / ".ci" / "run").read_text()]
    assert {name for text in typed for name in re.findall(r"\bmake ([\w-]+)", text)} <= targets


def test_what_every_change_leaves_out_runs_every_week():
    job = read(ROOT / ".github" / "workflows" / "weekly.yml")["jobs"]["check"]
    assert job["strategy"]["matrix"]["target"] == ["test-thorough", "torture", "test-isa"]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(job["strategy"]["matrix"]["target"]) <= targets
    assert job["steps"][-1]["run"] == "make ${{ matrix.target }}"
