"""Every law by name; a new law is one file and one import here."""

# ruff: noqa: F401 (imports are the registry)

import difflib

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
from refused import Refused

# Every law imported above, by name: importing a law here is all it takes to be fitted.
LAWS: dict[str, Law] = {law.name: law for law in tuple(globals().values()) if isinstance(law, Law)}


def law_named(law) -> Law:
    """A `Law` as it is, or the one with that name; Refused for an unknown one, with one near."""
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        near = difflib.get_close_matches(str(law), LAWS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise Refused("law", law, ", ".join(LAWS) + meant)
    return LAWS[law]
