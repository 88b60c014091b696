"""Passes: the arithmetic of merging, over flat tensors, float32 inside, rounded once.

A pass makes one output tensor, and on the way reads every weight of its inputs once: in come the inputs and
one number or rule for each, out goes the tensor. `keys`, `sparsity`, `row_rule` and `call` load no torch,
so that plans can hold them.

Read `scalars` (coefficients to one number per input), `blocks` (what passes share), `weighted_sum` and
`sparsified_sum` (the two passes that nearly all methods are made of) with `sparsity`, `sparsify`, `masks`
and `keys` (which elements survive), `by_row` with `row_rule` (weights row by row), `by_function` with
`call` (a person's own function), `whole` with `low_rank`, `beside_base`, `calibrated` and `contested`
(built-in functions of whole tensors), and `execute`, which chooses one. Then what makes them fast:
`kernels` (each pass as one function for the compiler), `fused`, `compiled`, `placement` (where experts
lie); and `contract` with `contract_outputs` (inner products with a gradient).
"""
