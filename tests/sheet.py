"""All kinds of figures on two pictures to look at, in colour and in grey: `make sheet`.

Each is drawn as wide as a column and as a page's text, written as PDF, SVG and PNG, and the PDF is
drawn as a paper's reader sees it (pdftoppm), where that is installed. Fonts are listed by pdffonts.
"""

import argparse
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

import experiments
from experiments import learning_rate
from experiments.evidence import comparison, optimizers
from fitting import Observations, figures, fit
from fitting.held_out import split
from fitting.isoflop import isoflop
from fitting.rolling import extrapolations
from fitting.style import save
from scaling import unfolded
from tests.fitting.test_isoflop import sweep

DPI = 110  # Of the sheet: a column of it is as wide as two of a paper.


def main() -> None:
    """Writes every figure and both sheets, and prints what fonts the PDF files hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.sheet", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/sheet"), help="build/sheet")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        next(file for file in save(figure, folder, name) if file.suffix == ".pdf")
        for name, figure in drawn().items()
    ]
    missing = set(figures.CAPTIONS) - {file.stem.partition("-")[0] for file in files}
    if missing:
        parser.exit(2, f"not on the sheet: {', '.join(sorted(missing))}\n")
    sheet = page([raster(file) for file in files])
    sheet.save(folder / "sheet.png")
    sheet.convert("L").save(folder / "sheet-grey.png")
    kinds = sorted({kind for file in files for kind in fonts(file)})
    print(f"{len(files)} figures in {folder}, beside sheet.png and sheet-grey.png")
    print(f"fonts of the PDF files: {', '.join(kinds)}")


def drawn() -> dict:
    """{name: Figure} of every kind, on published runs, at one and at two columns."""
    runs = Observations.read("published:over_training:c4")
    mask = split(runs, "above:0.25")
    kept, found = runs.only(mask), fit("over_training", runs, held_out=mask, draws=200)
    rolled = extrapolations(("over_training", "chinchilla", "kaplan"), runs)
    minima = isoflop(sweep(noise=0.003), "params_total", draws=100)
    kinds = {
        "loss": lambda wide: figures.loss_against_compute(found, kept, wide=wide),
        "predicted": lambda wide: figures.predicted_against_actual(found, wide=wide),
        "residuals": lambda wide: figures.residuals(found, wide=wide),
        "profiles": lambda wide: figures.profile_likelihood(found, wide=wide),
        "allocation": lambda wide: figures.allocation(found, wide=wide),
        "distance": lambda wide: figures.error_against_distance(rolled, wide=wide),
        "isoflop": lambda wide: figures.isoflop_minima(minima, wide=wide),
    }
    widths = {"column": False, "page": True}
    found = {f"{n}-{w}": draw(wide) for w, wide in widths.items() for n, draw in kinds.items()}
    return found | {f"study-{name}": figure for name, figure in of_studies().items()}


def of_studies() -> dict:
    """Figures of studies, from their published tables of runs."""
    folder = Path(experiments.__file__).parent / "results"
    runs = {
        name: unfolded(pd.read_csv(folder / f"{name}-cpu" / "runs.csv"))
        for name in ("stem", "learning_rate", "optimizers")
    }
    decayed = runs["optimizers"].dropna(subset=["loss"])
    return {
        "arms": comparison.picture(runs["stem"], "bits_per_byte"),
        "budgets": learning_rate.picture(runs["learning_rate"]),
        "sizes": optimizers.picture(decayed),
    }


def raster(file: Path) -> Image.Image:
    """A PDF as pixels; the PNG beside it where nothing draws PDF files."""
    if not shutil.which("pdftoppm"):
        with Image.open(file.with_suffix(".png")) as image:
            size = (round(side * DPI / 300) for side in image.size)
            return image.convert("RGB").resize(tuple(size))
    command = ["pdftoppm", "-r", str(DPI), "-png", "-singlefile", str(file)]
    found = subprocess.run(command, capture_output=True, check=True).stdout
    return Image.open(io.BytesIO(found)).convert("RGB")


def page(images: list[Image.Image], columns: int = 4) -> Image.Image:
    """Images below one another in columns, each under the shortest so far."""
    width = max(image.width for image in images) + 20
    ends, places = np.zeros(columns, int), []
    for image in images:
        column = int(np.argmin(ends))
        places.append((column * width + 10, int(ends[column]) + 10))
        ends[column] += image.height + 20
    out = Image.new("RGB", (columns * width, int(ends.max())), "white")
    for image, place in zip(images, places, strict=True):
        out.paste(image, place)
    return out


def fonts(file: Path) -> list[str]:
    """Kinds of the fonts in a PDF, by pdffonts, or by its bytes where that is not installed."""
    if not shutil.which("pdffonts"):
        return ["Type 3"] if b"/Type3" in file.read_bytes() else ["no Type 3"]
    lines = subprocess.run(["pdffonts", str(file)], capture_output=True, text=True, check=True)
    head, _, *rows = lines.stdout.splitlines()
    return [row[head.index("type") : head.index("encoding")].strip() for row in rows]


if __name__ == "__main__":
    main()
