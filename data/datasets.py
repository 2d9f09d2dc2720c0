"""Folders of a Hugging Face dataset: which files each of its splits has.

Three layouts are read, as the `datasets` library reads them: what its `save_to_disk` writes; a
README.md whose header has `configs`; and names that say the split, by the rules of `by_names`. They
are those of its documentation ("Structure your repository", "Manual configuration") and of
data_files.py in version 5.2.
"""

import glob
import json
import re
from pathlib import Path
from typing import NamedTuple

from data.files import COMPRESSED, NAMED
from refused import Refused

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SEPARATORS = "[-._ 0-9]"
SHARD = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*\.[^/]*")
ENDINGS = (*NAMED, ".txt")  # What ends otherwise in such a folder is documentation or code.
RECORDS = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
RECORDS += ("state.json",)  # Of the library's own.
TOLD = 3  # Files that are not read are named, as many.


class Splits(NamedTuple):
    """The files of the training side, and of the held-out one where the dataset has one.

    `words` are lines on what is not read.
    """

    train: list[Path]
    held_out: list[Path]
    words: tuple[str, ...]


def splits(folder: Path, subset: str = "") -> Splits:
    """Returns the files of a dataset: of `train`, and of `validation` or else `test` as held out.

    `subset` is one of the `configs` in README.md, needed where there are several and no default.

    Raises:
      Refused: a folder without a split for training, with a file in two splits, or with several
        subsets of which none is named.
    """
    saved = by_record(folder)
    if saved and subset:
        raise Refused("domain", f"{folder}:{subset}", "no subset: the dataset was saved alone")
    found = saved or by_readme(folder, subset) or by_names(folder)
    named = {split_of(name): name for name in reversed(found)}
    if "train" not in named:
        got = f"{folder} with the splits {', '.join(found) or 'none'}"
        raise Refused("domain", got, "a dataset with a split for training, or a pattern of files")
    owners: dict[Path, str] = {}
    for name, files in found.items():
        for file in files:
            if owners.setdefault(file, name) != name:
                got = f"{file} in the splits {owners[file]} and {name}"
                raise Refused("domain", got, "files in one split each, or patterns of files")
    held_out = named.get("validation", named.get("test"))
    left = [name for name in found if name not in (named["train"], held_out)]
    words = [f"split {name} of {folder} not read" for name in left]
    if others := [str(f.relative_to(folder)) for f in inside(folder) if f not in owners]:
        more = f" and {len(others) - TOLD} more" if len(others) > TOLD else ""
        words.append(f"not of the dataset: {', '.join(others[:TOLD])}{more} in {folder}")
    return Splits(found[named["train"]], found.get(held_out, []), tuple(words))


def split_of(name: str) -> str:
    """Returns which of `KEYWORDS` a split's name is one of, or the name."""
    return next((split for split, words in KEYWORDS.items() if name in words), name)


def inside(folder: Path) -> list[Path]:
    """Returns the files in a folder that are neither hidden nor records of the library's."""
    found = (f for f in folder.rglob("*") if f.is_file() and f.name not in RECORDS)
    shown = (f for f in found if not any(p[0] in "._" for p in f.relative_to(folder).parts))
    return sorted(f for f in shown if f.name != "README.md")


def holds_texts(file: Path) -> bool:
    """Says whether a file's name is one of a table or of texts."""
    name = Path(file.stem) if file.suffix.lower() in COMPRESSED else file
    return name.suffix.lower() in ENDINGS


def by_record(folder: Path) -> dict[str, list[Path]]:
    """Returns the splits that `save_to_disk` wrote; none where it did not write the folder."""
    whole = folder / "dataset_dict.json"
    try:
        names = json.loads(whole.read_text())["splits"] if whole.exists() else []
        parts = {name: folder / name for name in names}
        if not parts and (folder / "state.json").exists():
            parts = {"train": folder}
        return {
            name: [part / f["filename"] for f in state(part)["_data_files"]]
            for name, part in parts.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused("domain", folder, f"a dataset as it was saved ({error!r})") from None


def state(part: Path) -> dict:
    """Reads the record of one split."""
    return json.loads((part / "state.json").read_text())


def by_readme(folder: Path, subset: str) -> dict[str, list[Path]]:
    """Returns the splits that the header of README.md names; none where it names no files.

    Raises:
      Refused: no such subset or several, a pattern without a file or of another place.
    """
    named = {str(c.get("config_name", "default")): c for c in configs(folder)}
    if not named:
        if subset:
            raise Refused("domain", f"{folder}:{subset}", "a README.md there with such a subset")
        return {}
    default = [name for name, c in named.items() if c.get("default") or name == "default"]
    chosen = subset or (default or [*named])[0]
    if chosen not in named or (len(named) > 1 and not (subset or default)):
        got = f"{folder}:{subset}" if subset else f"{folder}, which has {len(named)} subsets"
        raise Refused("domain", got, f"{folder}:SUBSET of {', '.join(named)}")
    given = named[chosen].get("data_files")
    if given is None:
        return by_names(folder / named[chosen].get("data_dir", ""))
    if not (isinstance(given, list) and given and isinstance(given[0], dict)):
        given = [{"split": "train", "path": given}]
    base = folder / named[chosen].get("data_dir", "")
    return {str(one["split"]): matched(base, one["path"]) for one in given}


def matched(folder: Path, patterns: str | list[str]) -> list[Path]:
    """Returns the files of patterns below a folder, in the patterns' order."""
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        names = sorted(glob.glob(pattern, root_dir=folder, recursive=True))
        files = [folder / name for name in names if (folder / name).is_file()]
        if "://" in pattern or not files:
            raise Refused("domain", f"{folder}, whose README.md names {pattern}", "files in it")
        found |= dict.fromkeys(files)
    return [*found]


def configs(folder: Path) -> list[dict]:
    """Returns the `configs` of a README.md's YAML header; none without any."""
    import yaml

    file = folder / "README.md"
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    header = re.match(r"---[^\S\n]*\n(.*?)\n---[^\S\n]*(\n|\Z)", text.replace("\r\n", "\n"), re.S)
    try:
        said = yaml.safe_load(header[1]) if header else None
    except yaml.YAMLError as error:
        raise Refused(
            "domain", file, f"a header of YAML ({' '.join(str(error).split())})"
        ) from None
    found = said.get("configs") if isinstance(said, dict) else None
    listed = found if isinstance(found, list) else []
    return [c for c in listed if isinstance(c, dict) and ({"data_files", "data_dir"} & c.keys())]


def by_names(folder: Path) -> dict[str, list[Path]]:
    """Returns the splits that names tell, by the first rule that finds one.

    `data/SPLIT-00000-of-00001.parquet` and the like; a folder called by a word of `KEYWORDS`, alone
    or parted by one of `SEPARATORS`; a file that begins so; else all files are of `train`.
    """
    files = {f.relative_to(folder).as_posix(): f for f in inside(folder) if holds_texts(f)}
    shards: dict[str, list[Path]] = {}
    for name, file in files.items():
        if found := SHARD.fullmatch(name):
            shards.setdefault(found[1], []).append(file)
    if shards:
        return shards
    for rule in (in_folders, in_file):
        splits_ = {s: [f for name, f in files.items() if rule(name, s)] for s in KEYWORDS}
        if any(splits_.values()):
            return {split: found for split, found in splits_.items() if found}
    return {"train": [*files.values()]} if files else {}


def in_folders(name: str, split: str) -> bool:
    """Says whether a folder on a file's way is called by a split's word."""
    words = f"(?:.*{SEPARATORS})?(?:{'|'.join(KEYWORDS[split])})(?:{SEPARATORS}.*)?"
    return any(re.fullmatch(words, part) for part in name.split("/")[:-1])


def in_file(name: str, split: str) -> bool:
    """Says whether a file is called by a split's word."""
    words = f"(?:.*{SEPARATORS})?(?:{'|'.join(KEYWORDS[split])}){SEPARATORS}.*"
    return re.fullmatch(words, name.rpartition("/")[2]) is not None
