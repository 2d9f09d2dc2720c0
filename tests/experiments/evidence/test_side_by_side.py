"""Two studies side by side."""

import numpy as np
import pandas as pd

from experiments.evidence.report import Table, Text
from experiments.evidence.side_by_side import side_by_side
from tests.drawn import stumbles


def table(shift: float, counts=(1e6, 2e6, 4e6)) -> pd.DataFrame:
    """Returns a run table of a law whose floor is raised by a shift."""
    rows = [
        dict(
            run=f"{width}-{tokens}-{seed}",
            trunk=f"{width}-{seed}",
            arm="plain",
            seed=seed,
            width=width,
            streams=1,
            bits=32.0,
            batch_tokens=1024,
            params_total=100 * width**2,
            tokens=tokens,
            flops=600 * width**2 * tokens,
            loss=1.5 + shift + 20 / width + 50 * tokens**-0.3 + 0.002 * ((seed + width) % 3 - 1),
            diverged_step=pd.NA,
        )
        for width in (16, 32, 64)
        for tokens in counts
        for seed in range(2)
    ]
    return pd.DataFrame(rows)


def test_runs_alike_are_compared_and_a_law_is_fitted_to_each():
    blocks = side_by_side({"one": table(0.0), "other": table(0.25)}, "chinchilla")
    assert stumbles(blocks) == {}
    tables = {block.name: block.frame for block in blocks if isinstance(block, Table)}
    alike = tables["alike"]
    assert len(alike) == 9 and set(alike["seeds"]) == {2}
    np.testing.assert_allclose(alike["difference"], 0.25)
    assert {"law_one", "law_other", "parameter_E"} <= tables.keys()
    floor = tables["parameter_E"].set_index("study")["E"]
    np.testing.assert_allclose(floor["other"] - floor["one"], 0.25, atol=0.02)


def test_what_cannot_be_fitted_or_compared_is_a_sentence():
    blocks = side_by_side({"one": table(0.0, (1e6,)), "other": table(0, (3e6,))}, "chinchilla")
    said = " ".join(block.markdown for block in blocks if isinstance(block, Text))
    assert "No run of one is like one of other in arm, width, tokens" in said
    assert "The runs of one do not give it: tokens: got the constant" in said
