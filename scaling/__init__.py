"""Runs, plans, training on a mesh, and run tables."""
