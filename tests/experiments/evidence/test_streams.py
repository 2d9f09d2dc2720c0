"""Streams: what an arm scores with fewer of them, at the rate that was best with all."""

import pandas as pd

from experiments.evidence.streams import kept_table


def test_fewer_streams_are_read_at_the_rate_that_was_best_with_all():
    row = lambda arm, rate, streams, score: dict(
        arm=arm, rate=rate, streams=streams, bits_per_byte=score, seed=0, diverged_step=pd.NA
    )
    trained = pd.DataFrame([row("4 streams", rate, 4, 2 + rate) for rate in (0.5, 1.0, 2.0)])
    kept = pd.DataFrame(
        [row(f"4 streams: {p} kept", rate, p, 3 + rate) for p in (1, 2) for rate in (0.5, 1.0)]
    )
    table = kept_table(trained, kept, "4 streams").frame
    assert table.to_dict("records") == [
        {"trained": "4 streams", "all 4 streams": 2.5, "1 kept": 3.5, "2 kept": 3.5}
    ]
