"""Answers from finished runs: counts, densities, comparisons, SQL."""
