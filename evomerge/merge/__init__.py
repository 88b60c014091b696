"""Merge: from a recipe to tensors, in a live model or in a checkpoint folder, by the same passes."""
