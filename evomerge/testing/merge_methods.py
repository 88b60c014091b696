"""What every merge method of one's own must do, as functions that a test calls with its name.

Usage, in a test of your own::

    from evomerge.testing.merge_methods import CHECKS

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check("my_method")

The method must be registered by `evomerge.merge_method`, or installed. Checks call the function on random
tensors at the ends of its coefficients' ranges, and merge a tiny model with it, live and into a folder. They
raise AssertionError with what was expected.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.folder import CheckpointFolder, open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.merge.materialize import LiveModel, write_checkpoint
from evomerge.merge.plan import MergePlan, make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.method import Coefficient, MergeMethod
from evomerge.recipe.places import Table
from evomerge.recipe.recipe import (
    MERGED,
    CheckpointSource,
    MergedSource,
    single_source_recipe,
)
from evomerge.recipe.registered import find_method, own_methods
from evomerge.testing.evaluators import tiny_subject

SHAPES = ((), (1,), (7,), (6, 4), (1, 5), (3, 2, 4))
"""Scalars, norms, matrices, kernels of convolutions."""

Numbers = Mapping[str, float]


def check_result(name: str) -> None:
    """A finite float32 tensor of the base's shape, at every end of the coefficients' ranges."""
    method = _method(name)
    for shape, numbers in itertools.product(SHAPES, _corners(method)):
        found = _call(method, *_tensors(method, shape), numbers)
        said = f"`{name}` of {list(shape)} tensors with {dict(numbers)}"
        assert isinstance(found, torch.Tensor), f"{said} gives {type(found).__name__}, not a tensor"
        assert found.dtype == torch.float32, f"{said} gives {found.dtype}, not float32"
        assert found.shape == shape, f"{said} gives the shape {list(found.shape)}"
        assert bool(found.isfinite().all()), f"{said} gives NaN or infinite elements"


def check_equal_experts(name: str) -> None:
    """Finite also where experts are the base, alike or zero: layers that training left alone."""
    method = _method(name)
    for numbers in _corners(method):
        base, experts = _tensors(method, (6, 4))
        zero = torch.zeros(6, 4)
        for origin, all_alike in ((base, base), (base, experts[0]), (zero, zero)):
            found = _call(method, origin.clone(), [all_alike.clone() for _ in experts], numbers)
            finite = bool(found.isfinite().all())
            assert finite, f"`{name}` with {dict(numbers)} gives NaN where all experts are alike"


def check_inputs(name: str) -> None:
    """Base and experts are left as they were."""
    method = _method(name)
    for shape in SHAPES:
        base, experts = _tensors(method, shape)
        given = [tensor.clone() for tensor in (base, *experts)]
        _call(method, base, experts, _corners(method)[0])
        for before, after in zip(given, (base, *experts), strict=True):
            assert torch.equal(before, after), f"`{name}` writes into the tensors it is given"


def check_repeats(name: str) -> None:
    """Equal arguments give equal bits, and nobody's random numbers are drawn."""
    method = _method(name)
    with torch.random.fork_rng(devices=[]):
        for numbers in _corners(method):
            found = []
            for seed in (1, 2):
                torch.manual_seed(seed)
                before = torch.get_rng_state()
                found.append(_call(method, *_tensors(method, (6, 4)), numbers))
                drawn = not torch.equal(before, torch.get_rng_state())
                assert not drawn, f"`{name}` draws from torch's global random numbers"
            assert torch.equal(*found), f"`{name}` gives other bits when it is called again"


def check_sent(name: str) -> None:
    """The function can be sent to workers, and gives the same bits there."""
    own = own_methods()[_method(name).name]
    shipped = own.registered.shipped
    assert shipped is not None, f"`{name}` cannot be sent to workers: {own.registered.why_not}"
    function = shipped.load()
    if function is None:
        return  # of a module, which workers import
    numbers = _corners(own.method)[0]
    base, experts = _tensors(own.method, (6, 4))
    arguments = _arguments(own.method, numbers, len(experts))
    sent = function(base.clone(), [expert.clone() for expert in experts], **arguments)
    here = _call(own.method, base, experts, numbers)
    assert torch.equal(sent, here), f"`{name}` gives other bits in a worker"


def check_live_is_export(name: str) -> None:
    """A live model holds the bits that an export writes, also after another merge."""
    with _family(name) as family:
        readers = open_readers({**family.folders})
        for dtype in ("bfloat16", "float32"):
            live = LiveModel.load(family.folders["base"], dtype)
            for number, plan in enumerate((*family.plans(dtype), family.plans(dtype)[0])):
                live.materialize(plan, readers)
                written = _written(plan, family, family.root / f"{dtype}-{number}")
                held = live.model.state_dict()
                for tensor, content in written.items():
                    same = torch.equal(held[tensor], content)
                    assert same, f"`{name}`: {tensor} is exported with other bits than are scored"


def check_rounds_once(name: str) -> None:
    """A merge stored as bfloat16 is the float32 merge, rounded once."""
    with _family(name) as family:
        wide, narrow = (family.plans(dtype)[0] for dtype in ("float32", "bfloat16"))
        exact = _written(wide, family, family.root / "wide")
        for tensor, content in _written(narrow, family, family.root / "narrow").items():
            rounded = exact[tensor].to(torch.bfloat16)
            assert torch.equal(content, rounded), f"`{name}`: {tensor} is not rounded once"


def check_equal_merges(name: str) -> None:
    """Recipes that state one merge in other words have one plan: any order of experts, place by place."""
    with _family(name) as family:
        for numbers in _corners(family.method):
            source = family.source(numbers)
            turned = replace(source, inputs=tuple(reversed(source.inputs)))
            split = replace(
                source,
                coefficients={
                    key: {who: {**table, "layers.0.mlp": table[""]} for who, table in by.items()}
                    for key, by in source.coefficients.items()
                },
            )
            first, *others = (family.plan(each, "bfloat16") for each in (source, turned, split))
            assert all(other == first for other in others), f"`{name}`: equal merges, other plans"


CHECKS: tuple[Callable[[str], None], ...] = (
    check_result,
    check_equal_experts,
    check_inputs,
    check_repeats,
    check_sent,
    check_live_is_export,
    check_rounds_once,
    check_equal_merges,
)
"""All checks; each takes the name of a registered method."""


def _method(name: str) -> MergeMethod:
    method = find_method(name)
    assert method.function, f"`{name}` is a method of evomerge, not one of your own"
    return method


def _corners(method: MergeMethod) -> list[Numbers]:
    """The defaults, then every combination of ends for up to six coefficients, else all low and all high."""
    ends = [(each.low, each.high) for each in method.coefficients]
    chosen = itertools.product(*ends) if len(ends) <= 6 else zip(*ends, strict=True)
    names = [each.name for each in method.coefficients]
    found = [dict(zip(names, values, strict=True)) for values in chosen]
    return [{each.name: each.default for each in method.coefficients}, *found]


def _count(method: MergeMethod) -> int:
    least, most = method.inputs
    return max(least, 3 if most is None else min(most, 3))


def _tensors(method: MergeMethod, shape: tuple[int, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    random = torch.Generator().manual_seed(5)
    base = torch.randn(shape, generator=random)
    return base, [base + 0.25 * torch.randn(shape, generator=random) for _ in range(_count(method))]


def _arguments(method: MergeMethod, numbers: Numbers, experts: int) -> dict[str, float | list[float]]:
    def value(each: Coefficient) -> float | list[float]:
        return [numbers[each.name]] * experts if each.per_input else numbers[each.name]

    return {each.name: value(each) for each in method.coefficients}


def _call(
    method: MergeMethod, base: torch.Tensor, experts: list[torch.Tensor], numbers: Numbers
) -> torch.Tensor:
    function = own_methods()[method.name].registered.function
    with torch.no_grad():
        found: torch.Tensor = function(base, experts, **_arguments(method, numbers, len(experts)))
    return found


class _Family:
    """A tiny base and its experts as folders, and merges of them by one method."""

    def __init__(self, method: MergeMethod, root: Path) -> None:
        self.method, self.root = method, root
        base = tiny_subject().model
        random = torch.Generator().manual_seed(3)
        self.experts = [f"expert{number}" for number in range(_count(method))]
        self.folders: dict[str, CheckpointFolder] = {}
        for name in ("base", *self.experts):
            folder = root / name
            folder.mkdir()
            tensors = {}
            for key, value in base.state_dict().items():
                noise = 0.1 * torch.randn(value.shape, generator=random)
                tensors[key] = (value if name == "base" else value + noise).contiguous()
            save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
            config = {
                **base.config.to_dict(),
                "architectures": ["LlamaForCausalLM"],
                "dtype": "float32",
            }
            (folder / "config.json").write_text(json.dumps(config))
            self.folders[name] = open_folder(folder, name)
        self.statistics = WeightStatistics(self.folders)

    def source(self, numbers: Numbers) -> MergedSource:
        """The merge with these coefficients everywhere; experts differ a little in those of their own."""

        def tables(each: Coefficient) -> dict[str, Table]:
            value = numbers[each.name]
            if not each.per_input:
                return {"*": {"": value}}
            steps = {name: 0.01 * number for number, name in enumerate(self.experts)}
            inward = 1.0 if value < each.high else -1.0
            width = each.high - each.low
            return {name: {"": value + inward * step * width} for name, step in steps.items()}

        return MergedSource(
            self.method.name,
            tuple(self.experts),
            "base",
            {each.name: tables(each) for each in self.method.coefficients},
        )

    def plan(self, source: MergedSource, dtype: str) -> MergePlan:
        """Its plan, stored in a dtype."""
        sources = {name: CheckpointSource(str(each.path)) for name, each in self.folders.items()}
        layers = self.folders["base"].layers
        recipe = single_source_recipe({**sources, MERGED: source}, MERGED, layers, dtype)
        return make_plan(recipe, self.folders, self.statistics)

    def plans(self, dtype: str) -> list[MergePlan]:
        """Of the defaults, and of all coefficients at their upper ends."""
        corners = _corners(self.method)
        return [self.plan(self.source(numbers), dtype) for numbers in (corners[0], corners[-1])]


@contextmanager
def _family(name: str) -> Iterator[_Family]:
    method = _method(name)
    with tempfile.TemporaryDirectory() as folder:
        yield _Family(method, Path(folder))


def _written(plan: MergePlan, family: _Family, folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    write_checkpoint(plan, open_readers({**family.folders}), folder)
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found
