"""`hashcost ssh`: the operators' terminal for people elsewhere. A process of its own, never part of the agent's."""
