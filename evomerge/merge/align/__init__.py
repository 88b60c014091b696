"""Align: a model in the order of units of another, and the loss on the line between two models.

In come opened folders; out go permutations that change no output, tensors put in that order, and losses.

Read `symmetries` (what may be permuted, and how), `activations` (what units do on a text), `matching` (which
permutation is nearest) and `barrier`.
"""
