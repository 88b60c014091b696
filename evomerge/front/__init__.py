"""Front: the non-dominated evaluations of a campaign, picked from and judged on held-out items."""
