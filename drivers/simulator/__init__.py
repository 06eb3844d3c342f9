"""A simulated mining site that speaks the real wire protocols on loopback addresses.

`site.Site` runs one inside the process, `python -m drivers.simulator` as a process of its own,
and `control.SiteControl` talks to the latter.
"""
