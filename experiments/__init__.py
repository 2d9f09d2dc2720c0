"""The questions: one file per study, and nothing else at this level."""
