"""The Flax zoo and its accounting."""
