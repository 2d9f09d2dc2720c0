"""The sheet of figures: it shows PDF files as their readers see them, and names their fonts."""

import numpy as np
from PIL import Image

from fitting.style import COLUMN, panels, save
from tests import sheet


def test_a_figure_is_drawn_from_its_pdf_and_holds_no_type_3(tmp_path, monkeypatch):
    figure, axes = panels()
    axes[0, 0].set_xlabel("words")
    file = next(file for file in save(figure, tmp_path, "one") if file.suffix == ".pdf")
    assert not [kind for kind in sheet.fonts(file) if kind == "Type 3"]
    drawn = [sheet.raster(file)]
    monkeypatch.setattr(sheet.shutil, "which", lambda name: None)
    drawn.append(sheet.raster(file))
    assert sheet.fonts(file) == ["no Type 3"]
    for image in drawn:
        assert abs(image.width - COLUMN * sheet.DPI) <= 2 and np.asarray(image).min() < 100


def test_images_stand_below_the_shortest_column_and_none_on_another():
    images = [Image.new("RGB", (30, height), "black") for height in (50, 20, 20, 30)]
    made = np.asarray(sheet.page(images, columns=2))
    assert (made == 0).all(axis=2).sum() == sum(30 * image.height for image in images)
    assert made.shape[:2] == (120, 100)
