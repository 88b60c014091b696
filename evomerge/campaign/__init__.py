"""Campaign: all that must be stated before a search may start.

In comes a YAML file; out goes a `Campaign`, every fault of it with its line, and what it will take.
What needs weights or a loaded task is found later, by the `prepare` job.

Read `file` (sections, fields, bounds), `campaign` (the loaded whole and its identity), `check` (all
faults that headers and declarations show; `check_objectives` those of the metrics), `estimates`,
`devices`, `prepared` (what the `prepare` job found, and the search space over it), `recorded` (the same
from a ledger, and the recipes of candidates), `inputs` (every file a campaign reads), `placement` (its
workers over machines), `launch` and `rayjob` (job files for clusters), `bundle` (all a
campaign reads as one folder).
"""

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.check import CheckReport, check_campaign

__all__ = [
    "Campaign",
    "CheckReport",
    "check_campaign",
    "load_campaign",
]
