"""Export: one merge as a checkpoint to publish, whole and verified, or not at all."""
