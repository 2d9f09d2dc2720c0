"""Studies by name or file, and their configurations with values from the command line."""

import importlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from refused import Refused, listed

HERE = Path(__file__).resolve().parents[1]  # Of the studies that come with the project.


def names() -> list[str]:
    """Lists the studies that come with the project: the folder holds nothing else."""
    return sorted(file.stem for file in HERE.glob("[!_]*.py"))


@dataclass(frozen=True)
class Chosen:
    """A study that was asked for: its file, its preset (None: the default), its values as written.

    A value of None stands for a name without a value, as in `--config.repeat`.
    """

    file: Path
    preset: str | None = None
    values: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, values: Mapping[str, str | None]) -> "Chosen":
        """Finds the file of STUDY[:PRESET], a name of `names` or a path.

        Raises:
          Refused: no such study, no such file, or a file that is not Python.
        """
        name, colon, preset = text.partition(":")
        file = HERE / f"{name.replace('-', '_')}.py"
        if name.endswith(".py") or "/" in name:
            file = Path(name).expanduser()
            if not file.is_file():
                accepted = f"a file that is there, or a study's name: {listed(names(), file.stem)}"
                raise Refused("config", name, accepted)
            if file.suffix != ".py":
                raise Refused("config", name, "a Python file")
        elif file.stem not in names():
            raise Refused("config", name, f"a file, as {name}.py, or {listed(names(), file.stem)}")
        return cls(file, preset if colon else None, values)

    def open(self):
        """Imports the study; returns its module and its configuration, a ConfigDict.

        Raises:
          Refused: a file that is no study, an unknown preset, a value that cannot be.
        """
        module = imported(self.file)
        try:
            config = module.get_config() if self.preset is None else module.get_config(self.preset)
        except Exception as error:
            raise of_study(error, module.__file__) from error
        for name, value in self.values.items():
            override(config, name, value)
        return module, config


def imported(file: Path) -> ModuleType:
    """Imports a study's file; one that comes with the project as the module that it is.

    A file of a user's own may import what lies beside it, as a law of their own.

    Raises:
      Refused: a syntax error, or a file without `get_config` and `study`.
    """
    if file.resolve().parent == HERE and file.stem in names():
        return importlib.import_module(f"experiments.{file.stem}")
    beside = str(file.resolve().parent)  # Its own modules are found, after ours.
    if beside not in sys.path:
        sys.path.append(beside)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)  # Where a dataclass looks for its module.
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(file.stem, None)
        raise of_study(error, module.__file__) from error
    for name in ("get_config", "study"):
        if not hasattr(module, name):
            raise Refused("config", file, f"a file that defines {name}")
    return module


def of_study(error: Exception, file: str | Path) -> Exception:
    """Returns a refusal that names the line of a study's file, for an error that came of it."""
    if isinstance(error, (Refused, OSError)):
        return error
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return at_line(file, error.lineno, error.msg)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    if not lines:
        return error
    text = " ".join(str(error).split())[:300]
    return at_line(file, lines[-1], f"{type(error).__name__}: {text}")


def at_line(file: str | Path, line: int | None, said: str) -> Refused:
    """Returns the refusal of a study's file for what is wrong with one of its lines."""
    return Refused("config", f"{file}, line {line}: {said}", "a study's file that runs")


def override(config, name: str, value: str | None) -> None:
    """Sets one value of a configuration from its text, as ml-collections reads it.

    `~` in front of a text is the home folder.

    Raises:
      Refused: an unknown name, or a value that is not of the preset's kind.
    """
    from absl import flags
    from ml_collections import config_flags

    if name not in config:
        raise Refused(f"config.{name}", "an unknown name", listed(sorted(config), name))
    before = config[name]
    accepted = f"{type(before).__name__}, as in {before}"
    if value is None and not isinstance(before, bool):
        raise Refused(f"config.{name}", "nothing", accepted)
    text = "true" if value is None else value
    argv = ["espalier", f"--config.{name}={text}"]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError):
        raise Refused(f"config.{name}", text, accepted) from None
    config[name] = checked(name, values.config[name], before)


def checked(name: str, value, before):
    """Returns a value, its `~` expanded, if ml-collections let it pass for good.

    Raises:
      Refused: a tuple whose elements are not of the preset's kind, NaN or infinity.
    """
    if isinstance(before, tuple) and before:
        kinds = (int, float) if isinstance(before[0], float) else (type(before[0]),)
        if not value or not all(type(x) in kinds for x in value):
            raise Refused(
                f"config.{name}", value, f"a tuple of {kinds[-1].__name__}, as in {before}"
            )
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
        raise Refused(f"config.{name}", value, "finite numbers")
    expanded = isinstance(value, str) and value.startswith("~")
    return str(Path(value).expanduser()) if expanded else value
