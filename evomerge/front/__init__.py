"""Front: the non-dominated evaluations of a campaign, judged on held-out items.

In comes a history with its per-item results; out go members, baselines, picks, and how sure all of it
is. Nothing is computed on a model here, and nothing is written.

Read `front` first (members and picks), `compute` (who is one) and `folder` (a campaign folder opened for
reading while a run goes on). How sure it is: `statistics` (bootstraps over items), `uncertainty` (how far a
whole front may be believed), `selection` (which candidates deserve held-out items). What a person decides
by: `spanning` and `decision` (a few members, and what each claims over the baselines, read from `draws`),
`comparison` (two models item by item), `trace` (how a search went), and `candidate` and `shown` (which
members are meant). How it looks: `tables`, `terminal` with `text_table` and `drawing`, `pictures`,
`descent` (how a candidate came about), `words`.
"""

from evomerge.front.compute import compute_front
from evomerge.front.folder import OpenedFolder, open_campaign_folder
from evomerge.front.front import Front, Member, pick

__all__ = [
    "Front",
    "Member",
    "OpenedFolder",
    "compute_front",
    "open_campaign_folder",
    "pick",
]
