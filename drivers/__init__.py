"""Talks to machines. Knows watts and terahashes, knows nothing of money."""
