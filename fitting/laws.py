"""Every law by name; a new law is one file and one import here."""

# ruff: noqa: F401 (imports are the registry)

from collections.abc import Iterable

from fitting.broken import BROKEN_COMPUTE, BROKEN_DATA, BROKEN_SIZE
from fitting.chinchilla import CHINCHILLA, CHINCHILLA_NO_FLOOR
from fitting.downstream import DOWNSTREAM, DOWNSTREAM_SIGMOID
from fitting.farseer import FARSEER
from fitting.kaplan import KAPLAN
from fitting.law import Law
from fitting.leverage import COMPUTE, LEVERAGE
from fitting.loss_to_loss import LOSS_TO_LOSS
from fitting.moe import JOINT_MOE
from fitting.over_training import OVER_TRAINING, OVER_TRAINING_EXACT
from fitting.parscale import PARSCALE
from fitting.power_laws import COMPUTE_FLOOR, DATA, DATA_NO_FLOOR, SIZE, SIZE_NO_FLOOR
from fitting.qat import QAT, QAT_FRACTION
from fitting.repetition import REPETITION, REPETITION_FREE
from fitting.response import BEST_BATCH, BEST_RATE, RATE_BATCH_RESPONSE, RATE_RESPONSE
from fitting.routed import ROUTED, ROUTED_FLOOR
from fitting.skaling import SKALING, SKALING_NO_FLOOR
from fitting.sparsity import SPARSITY
from fitting.vocabulary import VOCABULARY
from refused import Refused, listed

# Every law imported above, by name: importing a law here is all it takes to be fitted.
LAWS: dict[str, Law] = {law.name: law for law in tuple(globals().values()) if isinstance(law, Law)}


def needed(laws: Iterable[Law], target: str | None = None) -> tuple[str, ...]:
    """The columns that laws read, in a table that may have them under other names.

    Args:
      laws: one, or several of which one is chosen; none for all of them.
      target: what is predicted, by default what every one of them predicts.
    """
    laws = list(laws)
    read = laws[0].predictors if len(laws) == 1 else ("params", "tokens")
    targets = {law.target for law in laws} or {"loss"}
    return (*read, *([target] if target else sorted(targets) if len(targets) == 1 else ["loss"]))


def law_named(law) -> Law:
    """A `Law` as it is, or the one with that name; Refused with the list for an unknown name."""
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        raise Refused("law", law, listed(LAWS, law))
    return LAWS[law]
