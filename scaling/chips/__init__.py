"""What programs need on chips: their table, compiled text read, and accounting alone."""
