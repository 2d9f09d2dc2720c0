"""The explorer's page at its largest: bytes, and the time until its first chart is drawn."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from fitting import Observations, fit
from fitting.explorer import explorer

RUNS, DRAWS = 5000, 2000
LAWS = ("chinchilla", "skaling", "kaplan", "over_training", "chinchilla_no_floor")


def page(runs: int = RUNS, draws: int = DRAWS) -> str:
    """The page of five laws that are fitted to a hundred of so many planted runs."""
    rng = np.random.default_rng(0)
    params, tokens = 10 ** rng.uniform(7, 10, runs), 10 ** rng.uniform(9, 11.5, runs)
    loss = (1.7 + 400 * params**-0.34 + 410 * tokens**-0.28) * np.exp(0.01 * rng.normal(size=runs))
    arm = rng.choice(["one", "two", "three"], runs)
    columns = {"params_total": params, "tokens": tokens, "loss": loss, "arm": arm}
    obs = Observations(pd.DataFrame(columns))
    some = obs.only(np.arange(runs) < 100)
    return explorer([fit(law, some, draws=draws, audits=2) for law in LAWS], obs, "bench")


def first_chart(file: Path) -> float | str:
    """Milliseconds from the start of loading to the first drawn chart, or why there are none."""
    browser = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return "no playwright"
    if browser is None:
        return "no chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        shown = opened.new_page()
        times = []
        for _ in range(3):
            shown.goto(f"file://{file}")
            shown.wait_for_function("document.documentElement.dataset.drawn")
            times.append(float(shown.evaluate("document.documentElement.dataset.drawn")))
        opened.close()
    return float(np.median(times))


def explored() -> None:
    """Prints both."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page(), "utf-8")
        told, size = first_chart(file), file.stat().st_size
    told = told if isinstance(told, str) else f"{told:.0f} ms to the first chart"
    print(f"explorer, {RUNS} runs and {len(LAWS)} laws: {size / 1e6:.2f} MB, {told}\n")


if __name__ == "__main__":
    explored()
