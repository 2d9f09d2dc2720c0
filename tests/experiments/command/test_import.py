"""`espalier import`: what a model is, its file and its tokenizer."""

from data.tokenizer import BPE
from scaling.interchange import folder, opened
from tests.experiments.command.test_main import call
from tests.scaling.interchange.models import LIKE, assert_same, kept


def test_a_folder_is_described_and_written_as_a_file(tmp_path, capsys):
    tokenizer = BPE.train([b"some text of some words "], 260).json
    one = kept(LIKE["qk_norm"], tokenizer)
    source, out = tmp_path / "theirs", tmp_path / "m.safetensors"
    folder.write(source, one)
    spec = tmp_path / "tokenizer.json"
    code, said, _ = call(
        capsys, "import", f"--from={source}", f"--out={out}", f"--tokenizer={spec}"
    )
    assert code == 0 and f"content {one.content}" in said and "width 16, depth 2" in said
    assert_same(opened.read(out), opened.read(source))
    assert BPE(spec.read_text()).vocabulary == 260


def test_what_cannot_be_read_is_one_line(tmp_path, capsys):
    code, _, error = call(capsys, "import", f"--from={tmp_path}")
    assert code == 2 and error.startswith("espalier: model folder: got ") and error.count("\n") == 1
    folder.write(tmp_path / "m", kept(LIKE["mha"]))
    code, _, error = call(capsys, "import", f"--from={tmp_path / 'm'}", "--tokenizer=t")
    assert code == 2 and "build the corpus with --tokenizer=bytes" in error
