"""Statistics: what merge methods must know of the weights, computed once for a set of checkpoints.

In come opened checkpoints; out go inner products, order statistics and ranks, kept on disk under the
digests of the weights they are of, and what `prepare` reports of broken or equal weights.

Read `weights` (the statistics as a whole), `joint` (numbers over one tensor of several experts), `order`
(ranks of magnitudes), `ranks` (the same within rows), `calibrated` (on calibration inputs),
`calibration_items` (those inputs), `kinship` (how alike models are), `array_cache` (where they are kept) and
`prepare` (the look at every weight before the first candidate).
"""
