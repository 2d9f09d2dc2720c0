"""Corpora, mixtures and the deterministic order in which they are read."""

from data.candidates import candidates, largest_shares, on_grid
from data.catalogue import cache_folder, load
from data.corpus import Corpus, Document, Domain, open_corpus, write_corpus
from data.held_out import HeldOut
from data.mixtures import Mixture
from data.order import Order, Piece, locate
from data.reader import Reader

NUMERICS = 1  # enters the hash of a run; raised in any commit that changes which tokens are read

__all__ = [
    "NUMERICS",
    "Corpus",
    "Document",
    "Domain",
    "HeldOut",
    "Mixture",
    "Order",
    "Piece",
    "Reader",
    "cache_folder",
    "candidates",
    "largest_shares",
    "load",
    "locate",
    "on_grid",
    "open_corpus",
    "write_corpus",
]
