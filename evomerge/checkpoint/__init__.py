"""Checkpoints on disk: opened, compared, read and written tensor by tensor.

In come folders that people have; out go names, shapes, places and mapped tensors, or one clear error
before a weight is read. `reader`, `aligned` and `writer` import torch; all else reads headers alone, so
that drivers and `check` can use it.

Read `header`, `layout` (where a tensor stands) with `towers` (models of several parts), `output_rows`
(which axis counts outputs), `folder` (a full model), `adapter_config`, `adapter`, `open` (which of the two
a folder is), `compare` (whether experts fit a base) with `rope` and `habits`, `architecture` (whether
transformers knows it), `digest`, `hub`, `licence`; then models seen otherwise than as they lie: `vocabulary`
and `tokenizer` (tokens that differ), `by_peft` (adapters that PEFT merges), `renumbered` (layers in another
order), `model_form` (another head, other rotary positions), `text_tower` (decoders as parts of more); at
last `residual`, `reader`, `aligned` and `writer`.
"""
