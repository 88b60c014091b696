"""Front: the non-dominated evaluations of a campaign, judged on held-out items.

In comes a history with its per-item results; out go members, baselines, picks, and how sure all of it
is. Nothing is computed on a model here, and nothing is written.

Read `front` first, then `statistics` (bootstraps over items), `selection` (which candidates deserve
held-out items), `uncertainty` (how far a whole front may be believed), `spanning` and `decision` (a few
members to choose from, and what each claims over the baselines, read from `draws`), `comparison` (two
models item by item), and `folder` (a campaign folder opened for reading while a run goes on).
"""

from evomerge.front.compute import compute_front, read_front
from evomerge.front.folder import OpenedFolder, open_campaign_folder
from evomerge.front.front import Front, Member, pick

__all__ = [
    "Front",
    "Member",
    "OpenedFolder",
    "compute_front",
    "open_campaign_folder",
    "pick",
    "read_front",
]
