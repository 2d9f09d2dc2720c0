"""The text of the bench of builds: its size, its form, and the same bytes every time."""

import hashlib
import json

from experiments.bench import building


def test_the_text_is_json_lines_of_the_size_asked_and_the_same_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "FILE_BYTES", 30_000)
    building.write_text(tmp_path, 70_000)
    files = sorted(tmp_path.iterdir())
    sizes = [file.stat().st_size for file in files]
    assert len(sizes) == 3 and 70_000 <= sum(sizes) < 80_000
    lines = b"".join(file.read_bytes() for file in files)
    documents = [json.loads(line)["text"] for line in lines.splitlines()]
    assert len(set(documents)) == len(documents)
    assert {len(document.split(" ")) for document in documents} == {building.WORDS}
    assert hashlib.sha256(lines).hexdigest()[:16] == "006f606419743eeb"
