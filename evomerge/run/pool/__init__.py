"""Pools: where jobs run. One seam, three places: this process, local processes, Ray.

In come jobs, out come results in order of arrival. A pool keeps its workers alive: one that dies or
passes its deadline is replaced, and its job comes back as `lost`; whether to try again is the driver's
decision.

Read `pool` (the seam), `open`, `inline`, `slots` (what pools of several workers share), `processes`,
`shared` (one pool for several drivers), `shown` (what workers do, for others to read) and `ray_actors`, which
alone knows Ray.
"""

from evomerge.run.pool.pool import Pool, Runner

__all__ = [
    "Pool",
    "Runner",
]
