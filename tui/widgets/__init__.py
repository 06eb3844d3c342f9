"""Widgets of our own: what the stock ones are too slow for."""
