"""The questions: one file per study, the command line, the reports."""
