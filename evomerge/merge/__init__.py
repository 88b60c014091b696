"""Merge: from a recipe to tensors, in a live model or in a checkpoint folder, by the same passes.

In come a recipe and opened checkpoints; out goes a model whose every parameter was written once, or a
folder with the same bits. This room loads torch; `plan/` and the data that plans are made of do not.

Read `plan/` (what each tensor is made of, as data), `materialize` (carry a plan out), `passes/` (the
arithmetic), `statistics/` (what methods must know of the weights, and of inputs), `mixture/` (dense models
as the experts of one), `align/` (orders of units), then `binding` (checkpoint tensor to live parameter),
`slopes` (gradients by the weights of experts), `skeleton` (the live model's body), `layer_bank` (its
layers, which a path may repeat), `heads` (heads that stay beside a merge), `device_map` (models over
several devices), `threads` (torch's), `distance` (from the base), `probe` (what a model is tried with),
`peft_adapters` (adapters that become full models first) and `ensemble` (models that answer as one, to
compare with).
Import from these modules; nothing is re-exported here.
"""
