"""Checkpoints on disk: opened, compared, read and written tensor by tensor.

In come folders that people have; out go names, shapes, places and mapped tensors, or one clear error
before a weight is read. `reader`, `aligned` and `writer` import torch; all else reads headers alone, so
that drivers and `check` can use it.

Read `header`, `towers` and `layout` (where a tensor stands), `folder` (a full model), `adapter_config`,
`adapter`, `open` (which of the two a folder is), `compare` (whether experts fit a base), `digest`, `hub`,
then `vocabulary`, `by_peft` (adapters that PEFT merges), `tokenizer`, `residual`, `reader`, `aligned` and
`writer`.
"""
