"""The console command `espalier`: its commands, its flags, and what is told of a mistake."""

import contextlib
import logging
import sys
import warnings

from absl import flags
from ml_collections import config_flags

from fitting import options as fit_options
from refused import Refused

COMMANDS = {
    "plan": "show what a study would train, what it costs and what is there already",
    "run": "train what is missing, then write tables, fit and report",
    "work": "train what is missing beside other workers on the same store",
    "launch": "start such workers on this machine, Slurm or Ray, or a run on a TPU pod",
    "report": "write tables, fit and report from the store",
    "export": "write one run's model, packed to its bits, as safetensors",
    "sample": "print texts with which one run's model goes on after a prompt",
    "fit": "fit a law to anybody's table of losses (needs no accelerator)",
    "corpus build": "tokenize your own text into a corpus that studies read",
    "corpus show": "show a corpus's domains, tokens, bytes, documents, tokenizer and hash",
    "corpus list": "list the corpora that are built, here and in the cache, or in --out",
}


def new_flags() -> flags.FlagValues:
    """Declares the flags; those of `fit` and of studies stand side by side."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "FILE[:preset], as in experiments/over_training.py:cpu", flag_values=values
    )
    text, number = flags.DEFINE_string, flags.DEFINE_float
    text("store", "runs", "where segments and reports are kept", flag_values=values)
    text("mesh", "", "device mesh, as in fsdp:4,data:2 (default: all on data)", flag_values=values)
    number("checkpoint_seconds", 60.0, "most work that a kill can undo", flag_values=values)
    number("stop_after", None, "stop cleanly after so many seconds", flag_values=values)
    text("fleet", "auto", "runs in one program: auto, loop or a largest number", flag_values=values)
    text("profile", None, "run: folder for a trace of some steps", flag_values=values)
    number("lease_seconds", 60.0, "work: silence before others take over", flag_values=values)
    flags.DEFINE_bool("keep_params", False, "keep each run's parameters", flag_values=values)
    text("coordinator", None, "host:port of process 0, or `auto` on a pod", flag_values=values)
    flags.DEFINE_integer("processes", None, "number of processes", flag_values=values)
    flags.DEFINE_integer("process", None, "number of this process", flag_values=values)
    number("join_seconds", 300.0, "several processes: wait for the others", flag_values=values)
    text("run", None, "export, sample: the run's id, as in the run table", flag_values=values)
    text("prompt", "", "sample: the text to go on after", flag_values=values)
    flags.DEFINE_integer(
        "tokens", None, "sample: tokens to draw (default: up to the context)", flag_values=values
    )
    number("temperature", 1.0, "sample: of the draw; 0 takes the likeliest", flag_values=values)
    flags.DEFINE_integer("samples", 1, "sample: how many texts", flag_values=values)
    flags.DEFINE_integer("seed", 0, "sample: of the draw", flag_values=values)
    text("law", None, "fit: the law's name", flag_values=values)
    text("table", None, "fit: CSV or Parquet file, or published:NAME", flag_values=values)
    text("columns", "", "fit: THEIRS=OURS,... column names", flag_values=values)
    text("out", None, "folder that fit or corpus writes, file of export", flag_values=values)
    text("flops", "", "fit: budgets to allocate, FLOP, with commas", flag_values=values)
    flags.DEFINE_multi_string(
        "ask", [], "fit: QUESTION,NAME=VALUE,... to the law, repeatable", flag_values=values
    )
    define = {str: text, float: number, int: flags.DEFINE_integer, bool: flags.DEFINE_bool}
    for field in fit_options.fields():
        kind, told = field.metadata["kind"], f"fit: {field.metadata['help']}"
        if field.name not in values:  # sample and fit share --seed.
            define[kind](field.name, field.default, told, flag_values=values)
    text("name", None, "corpus: its name; show: also a path, or wheels", flag_values=values)
    flags.DEFINE_multi_string("domain", [], "corpus: NAME=GLOB, repeatable", flag_values=values)
    flags.DEFINE_multi_string(
        "field", [], "corpus: key or column of the text, or DOMAIN=KEY", flag_values=values
    )
    flags.DEFINE_multi_string(
        "format", [], "corpus: text, jsonl, json, csv, ..., or DOMAIN=FORMAT", flag_values=values
    )
    text(
        "split", "", "corpus: what parts a text file's documents, as in \\n\\n", flag_values=values
    )
    text("tokenizer", "bytes", "corpus: bytes, bpe:SIZE or a tokenizer.json", flag_values=values)
    text("on_bad", "refuse", "corpus: skip or refuse what cannot be used", flag_values=values)
    number("held_out_fraction", 0.05, "corpus: share of documents held out", flag_values=values)
    flags.DEFINE_integer("longest", 1 << 24, "corpus: bytes of a document", flag_values=values)
    flags.DEFINE_integer(
        "workers",
        None,
        "launch: how many (default: 1, or one per accelerator of Ray); "
        "corpus: processes (default: cores)",
        flag_values=values,
    )
    text("on", None, "launch: local, slurm, ray or tpu", flag_values=values)
    flags.DEFINE_multi_string(
        "option", [], "launch: KEY=VALUE for sbatch or gcloud, repeatable", flag_values=values
    )
    flags.DEFINE_bool("dry_run", False, "launch: print, start nothing", flag_values=values)
    return values


def usage() -> str:
    """Returns what the command can do, for who calls it without or with unknown arguments."""
    lines = [f"  espalier {name:12} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["espalier: plan, train, fit and check scaling laws", *lines, "", str(new_flags())]
    )


def parse(argv: list[str]) -> tuple[str, flags.FlagValues]:
    """Parses the command line and returns the command and its flags.

    Raises:
      Refused: in one line, what was wrong and what is accepted.
    """

    found = new_flags()
    config = preset_named(argv)
    overrides = {
        a[len("--config.") :].partition("=")[0]: a.partition("=")[2]
        for a in argv
        if a.startswith("--config.")
    }
    for name in overrides:
        if config is None or name not in config:
            known = "--config=FILE first" if config is None else ", ".join(sorted(config))
            raise Refused(f"config.{name}", "an unknown name", known)
    try:
        rest = found(argv)
    except flags.UnrecognizedFlagError as error:
        known = sorted(name for name in found if "." not in name)
        raise Refused("flag", f"--{error.flagname}", ", ".join(known)) from None
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        for name, value in overrides.items():
            if f"config.{name}" in str(error) or value in str(error):
                kind = type(config[name]).__name__
                raise Refused(f"config.{name}", value, f"{kind}, as in {config[name]}") from None
        raise Refused("flags", " ".join(argv[1:]), " ".join(str(error).split())) from None
    for name in overrides:
        check_elements(name, found.config[name], config[name])
    words = 2 if rest[1:2] == ["corpus"] else 1
    command = " ".join(rest[1 : 1 + words])
    if command not in COMMANDS:
        raise Refused("command", command or "none", ", ".join(COMMANDS))
    if len(rest) > 1 + words:
        raise Refused("argument", rest[1 + words], "flags only, as in --config=FILE:preset")
    return command, found


def check_elements(name: str, value, default) -> None:
    """Refuses a tuple whose elements are not of the preset's kind; flags check all other types."""

    if not isinstance(default, tuple) or not default:
        return
    kinds = (int, float) if isinstance(default[0], float) else (type(default[0]),)
    if not value or not all(type(x) in kinds for x in value):
        accepted = f"a tuple of {kinds[-1].__name__}, as in {default}"
        raise Refused(f"config.{name}", value, accepted)


def preset_named(argv: list[str]):
    """Returns the configuration that `--config` names, None without one.

    Raises:
      Refused: no such file, or no such preset.
    """
    named = [a.partition("=")[2] for a in argv if a.startswith(("--config=", "-config="))]
    if not named:
        return None
    from experiments.evidence.study import load_module

    file, colon, name = named[-1].partition(":")
    module = load_module(file)
    return module.get_config(name) if colon else module.get_config()


def fit_command(found: flags.FlagValues) -> None:
    """Fits a law to a table; imports neither JAX nor any model."""
    from fitting.report import fit_report

    if not found.law or not found.table:
        missing = "law" if not found.law else "table"
        raise Refused(f"--{missing}", "nothing", f"espalier fit needs --{missing}=...")
    pairs = [item.partition("=") for item in found.columns.split(",") if item]
    for theirs, _, ours in pairs:
        if not theirs or not ours:
            raise Refused("--columns", found.columns, "THEIRS=OURS,..., as in size=params_total")
    columns = {theirs: ours for theirs, _, ours in pairs}
    try:
        flops = [float(budget) for budget in found.flops.split(",") if budget]
    except ValueError:
        raise Refused("--flops", found.flops, "FLOP,..., as in 1e21,1e22") from None
    chosen = {field.name: found[field.name].value for field in fit_options.fields()}
    options = fit_options.Options(**{n: None if v == "" else v for n, v in chosen.items()})
    where = {"columns": columns or None, "out": found.out or None, "flops": flops}
    print(fit_report(found.law, found.table, options, **where, ask=found.ask))


def corpus_command(command: str, found: flags.FlagValues) -> None:
    """Builds, shows or lists corpora; imports neither JAX nor any model."""
    from experiments.command import corpora

    if command == "corpus list":
        print(corpora.listing(found.out))
        return
    if not found.name:
        raise Refused("--name", "nothing", f"espalier {command} needs --name=...")
    if command == "corpus show":
        print(corpora.show(found.out or found.name))
        return
    corpora.build(
        found.name,
        found.out,
        found.domain,
        tokenizer=found.tokenizer,
        fields=found.field,
        formats=found.format,
        split=found.split,
        longest=found.longest,
        held_out=found.held_out_fraction,
        on_bad=found.on_bad,
        workers=found.workers,
    )


def study_file(found: flags.FlagValues) -> str:
    """Returns the file of the study that `--config` names."""

    if found.config is None:
        raise Refused(
            "--config", "nothing", "FILE[:preset], as in experiments/over_training.py:cpu"
        )
    return config_flags.get_config_filename(found["config"]).partition(":")[0]


def settings_of(found: flags.FlagValues):
    """Returns how a study is worked on, from the flags."""
    from experiments.command.session import Settings

    return Settings(
        store=found.store,
        mesh=found.mesh,
        checkpoint_seconds=found.checkpoint_seconds,
        stop_after=found.stop_after,
        keep_params=found.keep_params,
        fleet=found.fleet,
        lease_seconds=found.lease_seconds,
        profile=found.profile,
        run=found.run,
        out=found.out,
        prompt=found.prompt,
        tokens=found.tokens,
        temperature=found.temperature,
        samples=found.samples,
        seed=found.seed,
    )


def study_command(command: str, found: flags.FlagValues) -> int:
    """Plans, runs or reports a study and returns the exit code."""
    from data import cache_folder
    from experiments.command import session
    from experiments.evidence.study import load_module
    from scaling import processes
    from scaling.environment import compilation_cache

    file = study_file(found)
    if found.profile is not None and command != "run":
        raise Refused("--profile", found.profile, f"espalier run, not espalier {command}")
    several = {name: found[name].value for name in ("coordinator", "processes", "process")}
    for name, value in several.items():
        if command != "run" and value is not None:
            raise Refused(f"--{name}", value, f"none with {command}: espalier run has processes")
    compilation_cache(cache_folder() / "compiled")
    with processes.joined(**several, seconds=found.join_seconds):
        study = load_module(file).study(found.config)
        return getattr(session, command)(study, found.config, settings_of(found)) or 0


def launch_command(argv: list[str], found: flags.FlagValues) -> int:
    """Starts workers of a study, whose mistakes are told here and not by each of them."""
    from experiments.command import launchers, session
    from experiments.evidence.study import load_module

    file = study_file(found)
    for name in ("coordinator", "processes", "process"):
        if found[name].present:
            raise Refused(f"--{name}", found[name].value, "none: launch says who is who")
    if found.profile is not None and found.on != "tpu":
        raise Refused("--profile", found.profile, "espalier run, or launch --on=tpu")
    if found.on != "tpu":  # A pod trains one run, of a corpus that may lie on its hosts alone.
        session.check_shared(settings_of(found))
        load_module(file).study(found.config).check()
    return launchers.launch(
        found.on,
        launchers.Launch(
            launchers.handed_on(argv),
            found.store,
            found.workers,
            launchers.options(found.option),
            found.dry_run,
        ),
    )


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code: 2, with one line, for what a user got wrong."""
    argv = [underscored(argument) for argument in argv]
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
    if len(argv) < 2 or argv[1] in ("help", "--help", "-h"):
        print(usage())
        return 0 if len(argv) > 1 else 2
    try:
        command, found = parse(argv)
        if command == "fit":
            fit_command(found)
        elif command.startswith("corpus"):
            corpus_command(command, found)
        elif command == "launch":
            return launch_command(argv, found)
        else:
            return study_command(command, found)
    except Refused as error:
        print(f"espalier: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("espalier: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


def underscored(argument: str) -> str:
    """Lets flags be written with hyphens, as in --stop-after=60."""
    name, equals, value = argument.partition("=")
    if not name.startswith("--") or name.startswith("--config"):
        return argument
    return "--" + name[2:].replace("-", "_") + equals + value


def run() -> None:
    """Is the console script."""
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
