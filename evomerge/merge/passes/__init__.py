"""The arithmetic of merging: pure passes over flat tensors, float32 inside, rounded once.

A pass makes one output tensor, and on the way reads every weight of its inputs once.
`scalars` turns coefficients into one number per input, `masks` draws reproducible random masks,
`weighted_sum` and `sparsified_sum` are the two elementwise passes all methods are made of.
"""
