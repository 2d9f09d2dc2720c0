"""A real browser for tests of pages: Debian's Chromium, headless, without a network.

Without it, or without the library that drives it, tests are skipped with that reason; where
ESPALIER_BROWSER is `required`, as in CI, they fail.
"""

import contextlib
import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Wide and narrow screens: (width, height, pixels of the screen to one of the page).
DESK, PHONE = (1400, 1000, 1), (390, 844, 2)

# Records where texts stand on a canvas, in pixels of the page: {canvas: [[text, x, y, x, y]]}.
RECORDER = """
window.written = new Map();
const pen = CanvasRenderingContext2D.prototype, fill = pen.fillText, clear = pen.clearRect;
pen.clearRect = function (...box) { written.set(this.canvas, []); return clear.apply(this, box); };
pen.fillText = function (text, x, y, ...rest) {
  const size = this.measureText(text), at = this.getTransform(), ratio = devicePixelRatio;
  const corners = [[-size.actualBoundingBoxLeft, -size.actualBoundingBoxAscent],
    [size.actualBoundingBoxRight, size.actualBoundingBoxDescent]].map(([dx, dy]) =>
    at.transformPoint(new DOMPoint(x + dx, y + dy)));
  const xs = corners.map((c) => c.x / ratio), ys = corners.map((c) => c.y / ratio);
  if (!written.has(this.canvas)) written.set(this.canvas, []);
  const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  written.get(this.canvas).push([text, ...box]);
  return fill.call(this, text, x, y, ...rest);
};
"""

# What a person would see overlap or be cut: texts of the page, of its controls, of its canvases.
FAULTS = """
() => {
  const found = [], boxes = [], width = document.documentElement.clientWidth;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const owner = node.parentElement;
    if (!node.textContent.trim() || !owner.checkVisibility()) continue;
    if (owner.closest("script, style, option, textarea, noscript, .tip")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const {left, top, right, bottom} of range.getClientRects()) {
      boxes.push([node.textContent.trim(), left, top, right, bottom]);
      if (!owner.closest(".wide, table, pre") && (left < -0.5 || right > width + 0.5)) {
        found.push(`cut at the side: ${node.textContent.trim()}`);
      }
    }
  }
  const worded = "input[type=text], dd, dt, label, legend, h1, h2, h3";
  for (const box of document.querySelectorAll(worded)) {
    if (!box.checkVisibility() || box.id === "link") continue;
    if (box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).display !== "inline") {
      found.push(`cut: ${box.value || box.textContent}`);
    }
  }
  if (document.documentElement.scrollWidth > width) found.push("the page is wider than the screen");
  const overlapping = (all, where) => all.forEach((a, i) => all.slice(i + 1).forEach((b) => {
    const over = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
    const down = Math.min(a[4], b[4]) - Math.max(a[2], b[2]);
    if (over > 1 && down > 2) found.push(`overlap ${where}: ${a[0]} | ${b[0]}`);
  }));
  overlapping(boxes, "on the page");
  for (const [canvas, texts] of window.written) {
    if (!canvas.isConnected || !canvas.checkVisibility()) continue;
    overlapping(texts, "on a chart");
    for (const [text, left, top, right, bottom] of texts) {
      if (left < 0 || top < 0 || right > canvas.clientWidth || bottom > canvas.clientHeight) {
        found.push(`cut on a chart: ${text}`);
      }
    }
  }
  return found;
}
"""


def absent(what: str):
    """Skips, or where a browser is required fails, with what is missing."""
    told = f"no page can be tested: {what}"
    if os.environ.get("ESPALIER_BROWSER") == "required":
        pytest.fail(told)
    pytest.skip(told)


@contextlib.contextmanager
def chromium():
    """Gives a running browser of playwright's, and ends it."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        absent("chromium is not installed, as by `apt-get install chromium`")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        absent("playwright is not installed, as by `pip install 'espalier[browser]'`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, file, screen=DESK, hash: str = ""):
    """Gives a page loaded from a file without a network.

    It fails if the page asked for anything else, or if its console told an error.
    """
    width, height, ratio = screen
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=ratio,
        has_touch=screen is PHONE,
        is_mobile=screen is PHONE,  # Without its own width a page is then as wide as a desk.
        offline=True,
    )
    page, asked, told = context.new_page(), [], []
    page.add_init_script(RECORDER)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(f"file://{file}{hash}")
    if "dataset.drawn" in Path(file).read_text("utf-8"):  # A page that draws says when it has.
        page.wait_for_function("document.documentElement.dataset.drawn")
    yield page
    context.close()
    assert {url.partition("#")[0] for url in asked} == {f"file://{file}"}
    assert told == []
