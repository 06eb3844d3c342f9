"""Simulated sources of prices, for the demo and the tests: they answer on loopback as the real ones document it."""
