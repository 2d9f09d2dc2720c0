"""`espalier chain`: accuracy of runs that nobody trained, through the loss that a law predicts."""

import click

from experiments.command import options
from experiments.command.arguments import Command
from experiments.command.options import Number, Place
from refused import Refused


class Chances(click.ParamType):
    """A number, or GROUP=NUMBER,... as a mapping."""

    name = "chances"

    def convert(self, value, param, ctx):
        """Returns the number or the mapping."""
        try:
            if "=" not in value:
                return float(value)
            pairs = [item.partition("=") for item in value.split(",") if item]
            return {group.strip(): float(share) for group, _, share in pairs}
        except ValueError:
            raise Refused(param.opts[0], value, "NUMBER or GROUP=NUMBER,...") from None


def _table(name, text):
    return click.option(f"--{name}", type=Place("file"), required=True, metavar="FILE", help=text)


@click.command(cls=Command)
@_table("losses", "runs from which the loss is predicted")
@_table("links", "runs or checkpoints with loss and accuracy")
@_table("targets", "what is asked: the predictors, and the true value where it is known")
@click.option("--by", metavar="COLUMN", help="a chain for each of its values, as for each task")
@click.option("--chance", type=Chances(), help="of a guess, NUMBER or GROUP=NUMBER,...")
@click.option("--loss-law", default="chinchilla", show_default=True, help="a law's name, or auto")
@click.option("--link", default="downstream_sigmoid", show_default=True, help="a law of the loss")
@click.option(
    "--ceiling", type=Number(least=0, most=1), default=1.0, show_default=True, help="at zero loss"
)
@click.option("--where", metavar="CONDITION", help="rows of the losses, as in 'mode == train'")
@options.columns
@click.option("--params", metavar="COLUMN", help="the parameter count that is meant")
@click.option(
    "--draws", type=Number(int, least=1), default=400, show_default=True, help="resamples"
)
def command(losses, links, targets, columns, params, draws, **asked) -> None:
    """Predict accuracy through the loss, with the errors of both steps.

    A loss law is fitted to one table and a link from loss to accuracy to another. Needs no
    accelerator.

    \b
    espalier chain --losses=ladder.csv --links=checkpoints.csv --targets=asked.csv --chance=.25
    """
    from fitting.chain import LINK, chain_report
    from fitting.options import Options

    limits = dict(
        loss_options=Options(params=params, draws=draws),
        link_options=Options(**LINK, draws=draws),
    )
    tables = (losses, links, targets)
    report = lambda named: chain_report(*tables, columns=named, **asked, **limits)
    print(options.asked(columns, report))
