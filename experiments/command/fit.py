"""`espalier fit`: a law fitted to anybody's losses; needs no accelerator."""

import importlib.util
from pathlib import Path

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import Number, Place, switch
from refused import Refused


class Names(click.ParamType):
    """NAME,... as a list."""

    name = "names"

    def convert(self, value, param, ctx):
        """Returns the names."""
        return value if isinstance(value, list) else [name for name in value.split(",") if name]


class Budgets(click.ParamType):
    """FLOP,... as numbers."""

    name = "budgets"

    def convert(self, value, param, ctx):
        """Returns the budgets."""
        try:
            return [float(budget) for budget in value.split(",") if budget]
        except ValueError:
            raise Refused(param.opts[0], value, "FLOP,..., as in 1e21,1e22") from None


def option_fields():
    """Returns the fields of `fitting.options.Options`, without what importing `fitting` brings.

    Its file stands alone; its package would bring NumPy, SciPy and pandas to a help text.
    """
    package = importlib.util.find_spec("fitting").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("fit_options", Path(package) / "options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fields()


def declared(command):
    """Declares an option of the command for each option of a fit."""
    for field in reversed(option_fields()):
        kind, text = field.metadata["kind"], field.metadata["help"]
        name = field.name.replace("_", "-")
        if kind is bool:
            command = switch(name, text)(command)
            continue
        command = click.option(
            f"--{name}",
            type=str if kind is str else Number(kind),
            default=field.default,
            show_default=True,
            metavar="TEXT" if kind is str else "NUMBER",
            help=text,
        )(command)
    return command


@click.command(cls=Command)
@click.option("--law", metavar="NAME", help="a law's name, several, or auto")
@click.option(
    "--formula", metavar="TEXT", help="a law of your own, as in 'E + A*params**-a'; see --bounds"
)
@options.table
@options.columns
@click.option("--out", type=Place(), metavar="FOLDER", help="also write tables and figures there")
@click.option("--flops", type=Budgets(), default="", metavar="FLOP,...", help="budgets to allocate")
@click.option(
    "--ask",
    multiple=True,
    metavar="QUESTION,NAME=VALUE,...",
    help="a question to the fitted law; repeatable",
)
@click.option("--where", metavar="CONDITION", help="rows to take, as in 'params > 1e6'")
@click.option("--by", metavar="COLUMN", help="groups of runs to fit one by one")
@click.option(
    "--share",
    type=Names(),
    default="",
    metavar="PARAMETER,...",
    help="parameters that the groups have in common",
)
@declared
def command(law, formula, table, columns, out, flops, ask, where, by, share, **asked) -> None:
    """Fit a law to anybody's table of losses.

    Prints intervals and how they were made, what the data do not identify, errors on held-out
    runs beside naive baselines and, with --flops, compute-optimal sizes. Needs no accelerator.

    \b
    espalier fit --law=chinchilla --table=mine.csv --columns=size=params_total
    espalier fit --law=over_training --table=published:over_training:c4
    espalier fit --law=chinchilla --table=published:chinchilla:240 --flops=1e21,5.76e23
    espalier fit --law=auto --table=mine.csv --by=corpus --share=alpha,beta
    espalier fit --formula='E + A*params**-a' --bounds=a=.1:1 --table=mine.csv
    """
    from fitting.options import Options
    from fitting.report import fit_report

    if (law is None) == (formula is None):
        given = "nothing" if law is None else "both"
        raise Refused("--law", given, "--law=NAME or --formula=TEXT")
    if law is not None and set(law) & set("+*/^()"):
        raise Refused(
            "--law", law, f"a law's name, several, or auto; a formula is --formula='{law}'"
        )
    chosen = Options(**asked)
    rest = dict(flops=flops, ask=ask, by=by, share=share, out=out)
    if formula is None:
        report = lambda named: fit_report(law, table, chosen, columns=named, where=where, **rest)
    else:
        report = lambda named: _by_formula(formula, table, chosen, named, where, rest)
    print(options.asked(columns, report))


def _by_formula(formula, table, chosen, columns, where, rest) -> str:
    """The report of a law of the user's own; its words are names that columns may have."""
    from fitting.formula import formula_law, formula_names
    from fitting.observations import Observations
    from fitting.report import fit_report

    runs = Observations.read(table, columns, where, formula_names(formula))
    law = formula_law(formula, chosen.bounds, runs.frame.columns)
    return fit_report(law, runs, chosen, **rest)
