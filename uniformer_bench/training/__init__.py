"""The full training of one architecture, and its test: what comes after a search."""
