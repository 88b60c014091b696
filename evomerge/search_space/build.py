"""From a declaration and a layout to a search space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evomerge.errors import ConfigError, Problem
from evomerge.recipe.places import layer_place
from evomerge.recipe.recipe import AS_BASE, CheckpointSource, ModelForm
from evomerge.recipe.registered import changed_method, find_method
from evomerge.search_space.declaration import CoefficientField, SearchSpaceDeclaration
from evomerge.search_space.genes import Gene, make_genes, path_genes
from evomerge.search_space.layer_path import build_layer_paths
from evomerge.search_space.mixture import build_mixtures
from evomerge.search_space.model_layout import ModelLayout
from evomerge.search_space.one_for_equal import only_where_active
from evomerge.search_space.space import SearchSpace
from evomerge.search_space.trajectory import Trajectory

INSIDE = CoefficientField(outside_layers="shared", low=0.0, high=1.0, step=1.0)
"""The weight of a checkpoint: in the window or not."""

MAX_GENES = 10_000
MAX_ROW_GENES = 1_000_000
"""The same where a field is `row`."""


def build_search_space(
    declaration: SearchSpaceDeclaration,
    layout: ModelLayout,
    sources: Mapping[str, CheckpointSource],
    experts: Sequence[str],
    dtype: str,
    seed: int,
    file: str = "",
    form: ModelForm = AS_BASE,
    one_with_baselines: bool = True,
    mixture_rows: bool = True,
) -> SearchSpace:
    """Lay a declaration over a model. `sources` holds `base` and the experts.

    Every recipe has the `form` of the campaign.

    Raises:
        ConfigError: E118 wrong number of experts, E119 more bands than layers, E121 no free gene or
            too many; of a registered method E114, if it is not, and E514, if its function has changed.
    """
    method = find_method(declaration.method)
    changed = changed_method(method, declaration.function)
    if changed is not None:
        raise ConfigError(replace(changed, file=file))
    least, most = method.inputs
    if len(experts) < least or (most is not None and len(experts) > most):
        wanted = f"{least}" if most == least else f"{least} or more"
        found = f"found {len(experts)}"
        raise ConfigError(
            Problem("E118", f"{method.name} takes {wanted} experts", found, file=file, field="method")
        )
    options = method.resolve(declaration.options)
    genes: list[Gene] = []
    fixed: dict[str, float] = {}
    for coefficient in method.coefficients:
        field = declaration.coefficients.get(coefficient.name)
        if field is None and not coefficient.free:
            if not coefficient.may_be_left_out:
                fixed[coefficient.name] = coefficient.default
            continue
        field = field or (INSIDE if declaration.trajectory is not None else CoefficientField())
        if field.value is not None:
            fixed[coefficient.name] = field.value
            continue
        active = layout.active_leaves if only_where_active(method, options) else None
        own = make_genes(coefficient, field, layout, experts, active, file)
        thins = coefficient.name == "density" and options.rescale == "none"
        genes += [replace(gene, thins=True) for gene in own] if thins else own
    paths = None
    if declaration.layer_path is not None:
        if len(layout.towers) > 1:
            wrong = "a path of layers needs a model with one family of layers"
            found = f"found {', '.join(layout.towers)}"
            raise ConfigError(Problem("E119", wrong, found, "leave it out", file, field="layer_path"))
        paths = build_layer_paths(declaration.layer_path, layout.layers, experts, file)
        genes += path_genes(paths)
    trajectory = None
    if declaration.trajectory is not None:
        # `genes` are the weights of the experts: nothing else of `linear` is searched.
        trajectory = Trajectory(tuple(genes), declaration.trajectory.strides)
        genes = list(trajectory.genes)
    mixtures = None
    if declaration.mixture is not None:
        if len(layout.towers) > 1:
            wrong = "a mixture needs a model with one family of layers"
            found = f"found {', '.join(layout.towers)}"
            raise ConfigError(Problem("E119", wrong, found, "leave it out", file, field="mixture"))
        mixtures = build_mixtures(declaration.mixture, layout, experts, seed, file)
        genes += mixtures.genes
    if not genes:
        raise ConfigError(
            Problem("E121", "nothing to search: no free gene", file=file, field="coefficients")
        )
    _refuse_many(declaration, genes, file)
    return SearchSpace(
        method=method,
        genes=tuple(genes),
        fixed=fixed,
        options=options,
        layout=layout,
        sources={name: sources[name] for name in ("base", *experts)},
        experts=tuple(experts),
        dtype=dtype,
        seed=seed,
        form=form,
        calibration=declaration.calibrated,
        one_with_baselines=one_with_baselines,
        mixture_rows=mixture_rows,
        paths=paths,
        trajectory=trajectory,
        mixtures=mixtures,
    )


def _refuse_many(declaration: SearchSpaceDeclaration, genes: Sequence[Gene], file: str) -> None:
    most = MAX_ROW_GENES if declaration.by_row else MAX_GENES
    if len(genes) <= most:
        return
    found = f"found {len(genes)}, the limit is {most}"
    todo = "use a coarser field"
    if declaration.by_row:
        outside = sum(layer_place(gene.places[0]) is None for gene in genes)
        todo = "`field: tensor` has one for each matrix"
        if outside:
            found += f", {outside} of them outside the layers"
            todo = f"`outside_layers: shared` leaves these out; {todo}"
    raise ConfigError(Problem("E121", "too many genes", found, todo, file, field="coefficients"))
