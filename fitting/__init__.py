"""Run table to law to prediction, with intervals; numpy and SciPy only."""
