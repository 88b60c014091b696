"""Starter: a campaign folder that runs as it stands, for `evomerge init`."""
