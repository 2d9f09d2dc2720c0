"""Reading anybody's table: found, guessed and repaired by rules that are said, or refused."""

from fitting.reading.names import Question, Unsure
from fitting.reading.table import NEEDS, plain_frame, read_table

__all__ = ["NEEDS", "Question", "Unsure", "plain_frame", "read_table"]
