"""What hashcost's work costs, beside what its users would otherwise call: `make bench` (docs/performance.md)."""
