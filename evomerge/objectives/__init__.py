"""Objectives: scores, directions, constraints and dominance; the only room with a minus sign."""
