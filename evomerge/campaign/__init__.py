"""Campaign: all that must be stated before a search may start.

In comes a YAML file; out goes a `Campaign`, every fault of it with its line, and what it will take.
What needs weights or a loaded task is found later, by the `prepare` job.

Read `file` (sections, fields, bounds) with `checkpoint_reference` (base and experts), `campaign` (the loaded
whole and its identity) with `across_fields` (faults between fields), `schema` (the same for editors),
`changes` (fields stated otherwise for one run), `references` (checkpoints by name), `check` (all faults that
headers and declarations show) with `check_evaluators`, `check_objectives`, `check_mixture` and `items`,
`estimates`, `devices`; then `prepared` (what the `prepare` job found, and the search space over it) and
`recorded` (the same from a ledger, and the recipes of candidates); at last what takes a campaign elsewhere:
`inputs` (every file it reads), `placement` (its workers over machines), `launch` and `rayjob` (job files
for clusters), `bundle` (all it reads as one folder).
"""

from evomerge.campaign.campaign import Campaign, load_campaign
from evomerge.campaign.check import CheckReport, check_campaign

__all__ = [
    "Campaign",
    "CheckReport",
    "check_campaign",
    "load_campaign",
]
