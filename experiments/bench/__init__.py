"""Speed, coverage and peers, each measured by one command."""
