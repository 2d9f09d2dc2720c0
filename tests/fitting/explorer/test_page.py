"""The page in a real browser: its numbers are Python's, and it works with nothing around it."""

import json
import logging
import re

import numpy as np
import pandas as pd
import pytest

from fitting import use
from fitting.explorer import explorer
from fitting.observations import Observations
from refused import Refused
from tests import browser as browsers
from tests.browser import DESK, FAULTS, PHONE, opened
from tests.fitting.explorer.planted import fit_of, laws, misfit, runs

pytestmark = pytest.mark.system  # In a real browser.

POINTS = 100
CLOSE = dict(rel=1e-9, abs=0, nan_ok=True)
ODD = ("<script>alert(1)</script>", "=1+1", "a & b", "@@DATA@@", "\u2028 {} `x` $")

# Moves the page's own sliders to each point and reads what the page then says.
WALK = """
(walks) => walks.map(({law, names, points}) => {
  const choice = [...document.querySelectorAll("input[name=law]")].find((one) => one.value === law);
  choice.checked = true;
  choice.dispatchEvent(new Event("change"));
  const read = (name) => {
    const node = document.getElementById(`answer-${name}`);
    return node && ["value", "low", "high"].map((key) => node.getAttribute(`data-${key}`));
  };
  return points.map((point) => {
    names.forEach((name, i) => {
      const bar = document.getElementById(`slider-${name}`);
      bar.value = String(point[i]);
      bar.dispatchEvent(new Event("input"));
    });
    const places = names.map((name) => document.getElementById(`slider-${name}`).value);
    const told = ["prediction", "params", "tokens", "ratio", "target"].map((n) => [n, read(n)]);
    return {places, ...Object.fromEntries(told)};
  });
})
"""


@pytest.fixture(scope="module")
def chromium():
    with browsers.chromium() as found:
        yield found


def written(folder, fits, obs, title="") -> str:
    file = folder / "page.html"
    file.write_text(explorer(fits, obs, title), "utf-8")
    return str(file)


def embedded(file: str) -> dict:
    """What the page was given."""
    with open(file, encoding="utf-8") as page:
        return json.loads(re.search(r'id="data">(.*?)</script>', page.read(), re.S)[1])


def places(slider: dict, rng) -> np.ndarray:
    """Positions of a slider: half among the runs, half beyond them."""
    scale = np.log10 if slider["log"] else np.asarray
    low, high, most = (scale(slider[name]) for name in ("low", "high", "max"))
    half = POINTS // 2
    return np.concatenate([rng.uniform(low, high, half), rng.uniform(high, most, POINTS - half)])


def python_says(result, at: dict, budget: float) -> dict:
    """Prediction, both ends and the optimum as Python computes them."""
    seen = {*result.law.predictors, "params_total", "tokens", "flops"} - {"params"}
    found = result.predict(pd.DataFrame([{n: at[n] for n in at if n in seen}])).iloc[0]
    told = {"prediction": [found["prediction"], found["low"], found["high"]]}
    if use.allocates(result.law):
        own = {n: at[n] for n in use.question(result.law, "allocation").settings if n != "flops"}
        answer = use.ask(result, "allocation", flops=budget, **own)
        for name, (_, row) in zip(
            ("params", "tokens", "ratio", "target"), answer.iterrows(), strict=True
        ):
            told[name] = [row["value"], row["low"], row["high"]]
    return told


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_numbers_are_python_s_for_every_law(chromium, tmp_path, caplog):
    caplog.set_level(logging.ERROR, "fitting")
    obs, rng = runs(), np.random.default_rng(7)
    bent = {"chinchilla": "compute", "qat": "params", "data": "tokens", "formula0": "compute"}
    fits = [
        fit_of(law, obs, draws=8, misfit=misfit(bent[law.name]) if law.name in bent else None)
        for law in laws()
    ]
    file = written(tmp_path, fits, obs)
    told = embedded(file)
    sliders = {one["name"]: one for one in told["variables"]} | {
        "budget": told["budget"] | {"log": True}
    }
    walks = []
    for result in fits:
        shown = ["params_total" if n == "params" else n for n in result.law.predictors]
        names = [*shown, *(["budget"] if use.allocates(result.law) else [])]
        points = np.stack([places(sliders[name], rng) for name in names], axis=1)
        walks.append({"law": result.law.name, "names": names, "points": points.tolist()})
    start = {one["name"]: one["start"] for one in told["variables"]}
    with opened(chromium, file) as page:
        answers = page.evaluate(WALK, walks)
    at, compared = dict(start), 0
    for result, walk, points in zip(fits, walks, answers, strict=True):
        for point, found in zip(walk["points"], points, strict=True):
            moved = dict(zip(walk["names"], map(float, found["places"]), strict=True))
            assert list(moved.values()) == pytest.approx(point, rel=1e-12)
            values = {n: 10.0**x if sliders[n]["log"] else x for n, x in moved.items()}
            budget = values.pop("budget", told["budget"]["start"])
            at |= values
            with np.errstate(invalid="ignore"):  # Sliders also reach what no model can be.
                says = python_says(result, at, budget)
            for name, numbers in says.items():
                shown = [float(text.replace("Infinity", "inf")) for text in found[name]]
                assert shown == pytest.approx(numbers, **CLOSE), (result.law.name, name, moved)
                compared += np.isfinite(numbers).sum()
    assert compared > POINTS * len(fits) * 3


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A page of four laws, one of which does not allocate, over runs with odd names."""
    obs = runs()
    frame = obs.frame.copy()
    frame.loc[: len(ODD) - 1, "run"] = ODD
    frame["arm"] = np.resize([*ODD[:2], "plain"], len(frame))
    obs = Observations(frame)
    named = [law for law in laws() if law.name in ("chinchilla", "kaplan", "data", "formula0")]
    fits = [fit_of(law, obs, misfit=misfit() if law.size else None) for law in named]
    return written(tmp_path_factory.mktemp("page"), fits, obs, "Laws <b>of</b> runs")


def value(page, name: str) -> float:
    return float(page.locator(f"#answer-{name}").get_attribute("data-value"))


def settled(page):
    """Waits until a change has been drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["1400", "390"])
def test_nothing_overlaps_or_is_cut(chromium, shown, screen):
    with opened(chromium, shown, screen) as page:
        page.fill("#sizes", "7e9, 140B\n1,000,000 2T\nnonsense")
        for law in ("chinchilla", "data"):
            page.check(f"input[value={law}]")
            settled(page)
            assert page.evaluate(FAULTS) == []
        page.check("input[value=chinchilla]")
        page.locator("#slider-params_total").evaluate("(bar) => { bar.value = bar.max; }")
        page.locator("#slider-params_total").dispatch_event("input")
        settled(page)
        assert page.evaluate(FAULTS) == []
        assert "Extrapolated" in page.inner_text("#warning")


def test_faults_are_seen(chromium, tmp_path):
    words = "<p style='position:absolute;left:0;top:0'>one</p>" * 2
    wide = "<p style='position:absolute;left:99vw;white-space:nowrap'>to the side of it</p>"
    pen = "document.querySelector('canvas').getContext('2d')"
    drawn = "".join(
        f"{pen}.fillText('{t}', {x}, 20);" for t, x in (("up", 5), ("on", 9), ("out", 295))
    )
    chart = f"<canvas width=300 height=40></canvas><script>{drawn}</script>"
    text = f"<html data-drawn=1><body>{words}{wide}{chart}"
    (tmp_path / "bad.html").write_text(text, "utf-8")
    with opened(chromium, tmp_path / "bad.html") as page:
        told = " ".join(page.evaluate(FAULTS))
    assert "overlap on the page: one | one" in told and "cut at the side: to the side" in told
    assert "overlap on a chart: up | on" in told and "cut on a chart: out" in told


def test_sliders_boxes_and_laws_move_the_answer(chromium, shown):
    with opened(chromium, shown) as page:
        before = {name: value(page, name) for name in ("prediction", "params", "compute")}
        page.fill("#box-params_total", "70B")
        page.fill("#box-tokens", "1.4e12")
        assert value(page, "compute") == pytest.approx(6 * 70e9 * 1.4e12, rel=1e-12)
        assert value(page, "prediction") < before["prediction"]
        page.fill("#box-tokens", "many")
        assert page.locator("#box-tokens").get_attribute("aria-invalid") == "true"
        assert value(page, "compute") == pytest.approx(6 * 70e9 * 1.4e12, rel=1e-12)
        bar = page.locator("#slider-budget")
        bar.evaluate("(bar) => { bar.value = Number(bar.value) + 1; }")
        bar.dispatch_event("input")
        assert value(page, "params") > before["params"]
        assert page.is_visible("#plane")
        page.check("input[value=data]")
        settled(page)
        assert not page.is_visible("#plane") and not page.is_visible("#slider-params_total")
        assert page.locator("#answer-params").count() == 0


def test_the_link_keeps_what_was_chosen(chromium, shown):
    with opened(chromium, shown) as page:
        page.check("input[value=kaplan]")
        page.fill("#box-params_total", "13B")
        page.uncheck("#levels input >> nth=0")
        page.fill("#sizes", "1e9 2e10")
        settled(page)
        kept, told = page.input_value("#link"), value(page, "prediction")
        assert page.evaluate("location.hash") == kept[kept.index("#") :]
    with opened(chromium, shown, hash=kept[kept.index("#") :]) as page:
        assert value(page, "prediction") == told
        assert page.is_checked("input[value=kaplan]")
        assert not page.is_checked("#levels input >> nth=0")
        assert page.locator("#predictions tr").count() == 2
    with opened(chromium, shown, hash="#law=none&at.tokens=-1&budget=x&label=?&axis=?") as page:
        assert page.is_checked("input[value=chinchilla]")


def test_names_are_text_and_labels_filter(chromium, shown):
    with opened(chromium, shown) as page:
        assert page.inner_text("h1") == "Laws <b>of</b> runs"
        page.select_option("#label", "arm")
        assert page.locator("#levels label").all_inner_texts() == [*ODD[:2], "plain"]
        page.uncheck("#levels input >> nth=0")
        page.uncheck("#levels input >> nth=2")
        settled(page)
        page.focus("#loss")
        names = set()
        for _ in range(60):
            page.keyboard.press("ArrowRight")
            names.add(page.inner_text("#loss .tip"))
        assert len(names) == 13 and all("arm =1+1" in name for name in names)
        assert any(name.startswith("=1+1\n") for name in names)


def test_runs_are_told_under_the_pointer(chromium, shown):
    with opened(chromium, shown) as page:
        page.focus("#loss")
        page.keyboard.press("ArrowRight")
        told = page.inner_text("#loss .tip")
        box = page.locator("#loss .tip").bounding_box()
        page.keyboard.press("Escape")
        assert page.inner_text("#loss .tip") == ""
        over = page.locator("#loss .u-over").bounding_box()
        found = set()
        for down in range(0, 60, 4):
            page.mouse.move(max(box["x"] - 12, over["x"] + 1), box["y"] + box["height"] + down)
            found.add(page.inner_text("#loss .tip"))
        assert told in found


def test_the_keyboard_alone_reaches_everything(chromium, shown):
    with opened(chromium, shown) as page:
        reached, before = [], value(page, "prediction")
        for _ in range(40):
            page.keyboard.press("Tab")
            name = page.evaluate("document.activeElement.id || document.activeElement.name")
            if name == "law" and name not in reached:
                page.keyboard.press("ArrowDown")
                assert not page.is_checked("input[name=law] >> nth=0")
            if name == "slider-tokens" and name not in reached:
                page.keyboard.press("ArrowRight")
                assert value(page, "prediction") != before
            reached.append(name)
        wanted = {"law", "slider-params_total", "box-tokens", "slider-budget", "axis", "label"}
        assert wanted | {"loss", "plane", "sizes", "link", "copy"} <= set(reached)


def test_runs_alone_make_a_page(chromium, tmp_path):
    file = written(tmp_path, [], runs())
    with opened(chromium, file) as page:
        assert not page.is_visible("#laws") and not page.is_visible("#asked")
        assert page.is_visible("#loss") and page.evaluate(FAULTS) == []


def test_five_laws_and_5000_runs_fit_into_two_megabytes(tmp_path):
    obs = runs(5000)
    named = ("chinchilla", "kaplan", "skaling", "over_training", "repetition_free")
    fits = [fit_of(law, obs, draws=2000) for law in laws() if law.name in named]
    assert len(explorer(fits, obs).encode()) <= 2e6


def test_a_page_without_anything_or_of_two_targets_is_refused():
    obs = runs()
    with pytest.raises(Refused, match="explorer: got neither fits nor runs"):
        explorer([])
    chinchilla = next(law for law in laws() if law.name == "chinchilla")
    pair = [fit_of(chinchilla, obs), fit_of(chinchilla, obs, target="loss.other")]
    with pytest.raises(Refused, match="explorer: got loss, loss.other; accepted: fits of one"):
        explorer(pair, obs)
