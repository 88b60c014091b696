"""Schedulers for real, on this machine; `make cluster` runs them."""
