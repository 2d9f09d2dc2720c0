"""Fits and runs as one page that one can touch, offline."""

from fitting.explorer.fits import explore
from fitting.explorer.page import explorer

__all__ = ["explore", "explorer"]
