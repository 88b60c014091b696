"""Recipe: one wholly stated merge, its canonical JSON, and the merge methods as data."""
