"""The command line, one call of it on a study, and the launchers."""
