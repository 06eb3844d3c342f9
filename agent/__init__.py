"""Polls, prices, appraises, remembers. Knows nothing of screens."""
