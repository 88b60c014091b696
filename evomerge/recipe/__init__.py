"""Recipe: one merge stated wholly, as data.

In comes JSON or a decoded genome; out goes a frozen `Recipe` with a canonical JSON form and a digest, which
is the same for equal merges. No tensor is touched here.

Read `recipe` first, then `places` (where a tensor stands, and tables by place), `rows` (the side file of
weights by row), `calibration` (the text that some methods look at), `mixture` (experts on top of a merge),
`json_form` (recipes from JSON, every fault named by its field), `method` (what a merge method is, as data),
`catalogue` and `whole_tensor` (the built-in ones), `functions` (functions that a person registers in their
own process) and `registered` (merge methods of one such function, and how any method is found by name).
"""

from evomerge.recipe.catalogue import METHODS
from evomerge.recipe.json_form import recipe_from_json
from evomerge.recipe.method import MergeMethod
from evomerge.recipe.recipe import CheckpointSource, LayerStep, MergedSource, Recipe, canonical_json

__all__ = [
    "METHODS",
    "CheckpointSource",
    "LayerStep",
    "MergeMethod",
    "MergedSource",
    "Recipe",
    "canonical_json",
    "recipe_from_json",
]
