"""Checkpoints on disk: headers, folders, layout, comparison, digests, mapped reading, streamed writing.

Only `reader` and `writer` import torch; everything a driver or `check` needs reads headers alone.
"""
