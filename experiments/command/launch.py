"""`espalier launch`."""

from collections.abc import Mapping

import click

from experiments.command import options
from experiments.command.arguments import GIVEN, Command, written
from experiments.command.options import Number, OneOf, switch
from refused import Refused

PLACES = ("local", "slurm", "ray", "tpu")
# Not for what is started.
OWN = ("--on", "--workers", "--option", "--setup", "--dry-run", "--no-dry-run")
OWN += ("--report", "--no-report")


@click.command(cls=Command)
@click.option(
    "--on", type=OneOf(*PLACES), required=True, metavar="|".join(PLACES), help="where they start"
)
@options.config
@options.store
@click.option(
    "--workers",
    type=Number(int, least=1),
    metavar="COUNT",
    help="how many (default: 1, or one per accelerator of Ray)",
)
@click.option(
    "--option",
    multiple=True,
    metavar="KEY=VALUE",
    help="slurm, tpu: for sbatch or gcloud; repeatable",
)
@click.option(
    "--setup",
    multiple=True,
    metavar="LINE",
    help="slurm, tpu: a line of bash that runs there before, as 'module load cuda'; repeatable",
)
@click.option(
    "--report/--no-report",
    default=True,
    help="slurm: a job that reports once all workers have ended (default: yes)",
)
@switch("dry-run", "print what would be started, start nothing")
@options.mesh
@options.fleet
@options.checkpoint_seconds
@options.stop_after
@options.keep_params
@options.keep
@options.named
@options.lease_seconds
@options.profile
@options.join_seconds
@click.pass_context
def command(
    ctx, on, chosen, workers, option, setup, report, dry_run, join_seconds, **settings
) -> int:
    """Start workers here, on Slurm or Ray, or a run on a TPU pod.

    Further flags are those of the workers, of espalier run on a pod.

    \b
    espalier launch --on=local --workers=4 --config=over_training:cpu
    espalier launch --on=slurm --workers=8 --option=time=04:00:00 --option=gpus-per-node=1 \\
        --setup='module load cuda' --config=over_training:gpu --store=/shared/runs --dry-run
    espalier launch --on=tpu --option=name=pod-1 --option=zone=us-east5-a \\
        --option=accelerator-type=v5litepod-32 --option=runtime-version=v2-alpha-tpuv5-lite \\
        --option=spot --config=over_training:pod --mesh=fsdp:8,data:4 --store=gs://mine/runs
    """
    from experiments.command import launchers, session

    given = [flag for flag in ctx.meta[GIVEN] if flag[0] not in OWN]
    refuse_others(on, dict(given), dict(ctx.meta[GIVEN]))
    module, config = chosen.open()
    if on != "tpu":  # A pod trains one run, of a corpus that may lie on its hosts alone.
        session.check_shared(session.Settings(**settings))
        module.study(config).check()
    # A pod's hosts have homes of their own.
    there = dict(given).get("--store", "runs") if on == "tpu" else settings["store"]
    wanted = launchers.Launch(
        tuple(map(written, given)),
        there,
        workers,
        launchers.options(option),
        dry_run,
        setup,
        report,
    )
    return launchers.launch(on, wanted)


def refuse_others(
    on: str, given: Mapping[str, str | None], whole: Mapping[str, str | None]
) -> None:
    """Refuses flags that a place, or what is started there, does not have."""
    for name in ("--report", "--no-report"):
        if on != "slurm" and name in whole:
            raise Refused(name, "it", "launch --on=slurm")
    run_only, work_only = ("--profile", "--join-seconds"), ("--lease-seconds",)
    for name in work_only if on == "tpu" else run_only:
        if name in given:
            has = "espalier work" if on == "tpu" else "espalier run, or launch --on=tpu"
            raise Refused(name, given[name], has)
