"""The small study as a single worker trains it, which workers elsewhere are compared with."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.command import session
from tests.experiments.command.launchers.trained import small_study, table

with pytest.MonkeyPatch.context() as patch:
    # Its own configuration closes every log of the process, and pytest's files with them.
    patch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    import submitit  # noqa: F401


@pytest.fixture(scope="package")
def done(tmp_path_factory) -> Path:
    """The store of a single worker, as `espalier run` trains it."""
    store = tmp_path_factory.mktemp("alone")
    settings = session.Settings(store=str(store), mesh="data:1", fleet="loop")
    session.train(*small_study(), settings)
    return store


@pytest.fixture(scope="package")
def alone(done) -> pd.DataFrame:
    """The table of a single worker."""
    return table(done)
