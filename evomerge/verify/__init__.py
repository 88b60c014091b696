"""Verify: recompute every invariant of a campaign folder from what it holds."""
