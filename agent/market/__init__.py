"""Hashprice: where it comes from, and what may be believed of it."""
