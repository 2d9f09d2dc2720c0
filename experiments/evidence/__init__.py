"""What a report is made of: comparisons, laws, verdicts and figures, for every study."""
