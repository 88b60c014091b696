"""Checks that parts written by others can run against evomerge's seams."""
