"""Pools: where jobs run. One seam, three places: this process, local processes, Ray."""
