"""What policies would have earned on histories of prices, beside always running and beside knowing the future.

A decision sees only what was published by then. The agent's own policy is replayed by the code that the agent runs.
"""
