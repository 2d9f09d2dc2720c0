"""Corpora, mixtures and the deterministic order in which they are read."""
