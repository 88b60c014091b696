"""SearchSpace: which genes exist; genome to recipe and back.

In come a declaration (a YAML file in `search_spaces/`) and the layout of the base model; out goes a
`SearchSpace`. The declaration states a method and, for each of its coefficients, a *field*: one value for the
whole model, a band of layers, each layer, each module of each layer, each weight matrix or its rows, or a
curve over depth; and which paths of layers, or mixtures of experts, there are. Or it searches windows over
checkpoints of one run.

Read `declaration`, `model_layout` (the places there are), `genes` (the numbers a search varies), `layer_path`
(paths as genes), `mixture_fields` and `mixture` (mixtures as genes), both with `around_one`, `trajectory`
(windows as genes), `build` (declaration and layout to a space), `space` (genome to recipe and back) with
`spread`, `one_for_equal`, `rows` and `path_recipe`, `gradient` (by place to by gene) and `similarity` (how
akin genomes are).
"""

from evomerge.search_space.build import MAX_GENES, build_search_space
from evomerge.search_space.declaration import (
    CoefficientField,
    FieldKind,
    SearchSpaceDeclaration,
    load_search_space,
)
from evomerge.search_space.genes import Gene, Genome
from evomerge.search_space.gradient import gene_gradient
from evomerge.search_space.layer_path import LayerPaths, LayerPathSection, Step, build_layer_paths
from evomerge.search_space.mixture_fields import MixtureSection
from evomerge.search_space.model_layout import ModelLayout
from evomerge.search_space.space import SearchSpace

__all__ = [
    "MAX_GENES",
    "CoefficientField",
    "FieldKind",
    "Gene",
    "Genome",
    "LayerPathSection",
    "LayerPaths",
    "MixtureSection",
    "ModelLayout",
    "SearchSpace",
    "SearchSpaceDeclaration",
    "Step",
    "build_layer_paths",
    "build_search_space",
    "gene_gradient",
    "load_search_space",
]
