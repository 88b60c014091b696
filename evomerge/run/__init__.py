"""Run: the driver and its workers, from the first job to the last selection score."""
