"""Imports go downward only, and heavy libraries stay in the files that are named for them."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.layers import (
    FLOORS,
    HEAVY,
    MODULES,
    PACKAGE,
    SOURCES,
    circles,
    deferred,
    floor_of,
    imports,
    loaded_by,
    own,
    room_of,
    table,
)

HOMES = {
    "ray": ("run.pool.ray_actors",),
    "pymoo": ("optimizers.",),
    "optuna": ("optimizers.",),
    "cma": ("optimizers.cma_es",),
    "botorch": ("optimizers.qlognehvi",),
    "lm_eval": ("evaluators.",),
    "mergekit": (),
    "mlflow": ("run.tracking.mlflow_run",),
    "tensorboard": ("run.tracking.tensorboard_files",),
    "wandb": ("run.tracking.wandb_run",),
    "peft": ("merge.peft_adapters",),
    "accelerate": ("merge.device_map",),
    "plotly": ("report.page",),
    "jinja2": ("evaluators.templates", "report.page"),
}
"""Library to the only modules that may import it, inside functions too."""

DEFERRED = {
    "api.checkpoints": ("evomerge.export.export",),
    "api.front": (
        "evomerge.export.export",
        "matplotlib",
        "pandas",
    ),
    "campaign.check": ("torch",),
    "campaign.devices": ("torch",),
    "checkpoint.hub": (
        "huggingface_hub",
        "huggingface_hub.errors",
    ),
    "evaluators.classification": ("torch",),
    "evaluators.code_execution": ("evaluate",),
    "evaluators.generation_length": (
        "evomerge.evaluators.canary",
        "torch",
    ),
    "evaluators.item_texts": ("evomerge.evaluators.data",),
    "evaluators.kinds": ("evomerge.evaluators.lm_eval_tasks",),
    "evaluators.lm_eval_declaration": (
        "evomerge.evaluators.data",
        "evomerge.evaluators.loading",
    ),
    "evaluators.perplexity": (
        "evomerge.evaluators.canary",
        "evomerge.evaluators.losses",
        "evomerge.evaluators.packed",
    ),
    "evaluators.pictures": ("torch", "transformers"),
    "evaluators.splits": (
        "evomerge.evaluators.data",
        "evomerge.evaluators.loading",
    ),
    "evaluators.whole_model": (
        "evomerge.evaluators.canary",
        "torch",
    ),
    "export.push": ("huggingface_hub", "huggingface_hub.errors"),
    "front.pictures": ("matplotlib.figure",),
    "merge.device_map": ("accelerate",),
    "merge.passes.compiled": ("torch._C",),
    "merge.peft_adapters": ("peft",),
    "merge.passes.kernels": ("torch._inductor",),
    "optimizers.builtin": (
        "evomerge.optimizers.auto",
        "evomerge.optimizers.cma_es",
        "evomerge.optimizers.hm3",
        "evomerge.optimizers.kinship",
        "evomerge.optimizers.mmmo",
        "evomerge.optimizers.nsga2",
        "evomerge.optimizers.optuna_samplers",
        "evomerge.optimizers.qlognehvi",
        "evomerge.optimizers.steady_nsga2",
        "evomerge.optimizers.surrogate",
    ),
    "optimizers.optuna_samplers": ("optuna.samplers",),
    "report.page": ("plotly.offline",),
    "run.pool.ray_actors": ("ray",),
    "run.replay": ("evomerge.optimizers.refiner",),
    "run.scoring": (
        "evomerge.evaluators.losses",
        "evomerge.merge.binding",
        "evomerge.merge.distance",
        "evomerge.merge.ensemble",
        "evomerge.merge.heads",
        "evomerge.merge.skeleton",
        "torch",
        "transformers",
    ),
    "run.tracking.open": (
        "evomerge.run.tracking.mlflow_run",
        "evomerge.run.tracking.tensorboard_files",
        "evomerge.run.tracking.wandb_run",
    ),
    "run.worker": ("evomerge.run.engine",),
    "testing.evaluators": (
        "tokenizers",
        "torch",
        "transformers",
    ),
}
"""Every import inside a function, of the package or of a heavy library, to keep that library out of processes
that do not need it. The command line is left out: a verb imports what it needs when called."""


def test_floors(capsys: pytest.CaptureFixture[str]) -> None:
    """At most 18 rooms and these modules lie in the package, all of them on a floor."""
    lying = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert lying == {room for floor in FLOORS for room in floor} | {"__init__"}
    assert len(lying - {*MODULES, "__init__"}) <= 18
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*MODULES, "__init__"}
    with capsys.disabled():
        print("\n" + table())


@pytest.mark.parametrize("module", [name for name in SOURCES if own(name)])
def test_imports_go_downward_only(module: str) -> None:
    wrong = []
    for each in imports()[module]:
        where = f"{module}:{each.line} imports {each.imported}"
        library = each.imported.split(".")[0]
        if own(each.imported):
            if room_of(each.imported) != room_of(module) and floor_of(each.imported) >= floor_of(
                module
            ):
                wrong.append(f"{where}, which is no lower")
        elif library in HOMES and not module.removeprefix("evomerge.").startswith(
            HOMES[library] or "-"
        ):
            wrong.append(f"{where}, which has a file of its own")
    assert wrong == []


def test_no_module_imports_itself_through_others() -> None:
    """Neither when it is loaded nor in a function nor for type checkers."""
    arrows = {
        module: [each.imported for each in statements if each.imported in SOURCES]
        for module, statements in imports().items()
    }
    assert circles(arrows) == []


def test_rooms_have_a_face() -> None:
    """A folder's `__init__.py` says what it is for and what lies in it; nothing in the folder imports it."""
    for module in SOURCES:
        path = PACKAGE.joinpath(*module.split(".")[1:], "__init__.py")
        if path.is_file():
            words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert words, path
            files = {each.stem for each in path.parent.glob("*.py")} - {"__init__"}
            rooms = {f"{each.parent.name}/" for each in path.parent.glob("*/__init__.py")}
            untold = [name for name in files | rooms if f"`{name}`" not in words]
            assert module == "evomerge" or not untold, f"{path} does not say when to read {untold}"
            inside = [m for m in SOURCES if m.startswith(module + ".")]
            assert not [
                m for m in inside for each in imports()[m] if each.imported == module and own(module)
            ]


def test_deferred_imports_are_known() -> None:
    found = {module.removeprefix("evomerge."): tuple(names) for module, names in deferred().items()}
    assert {m: names for m, names in found.items() if not m.startswith("cli.")} == DEFERRED


@pytest.mark.parametrize("module", [f"evomerge.{name}" for name in DEFERRED])
def test_deferred_imports_keep_a_library_out(module: str) -> None:
    already = loaded_by(module)
    for name in deferred()[module]:
        if own(name):
            assert loaded_by(name) - already, (
                f"{module} may import {name} at its top: nothing heavy is in it"
            )
        else:
            assert name.split(".")[0] in HEAVY


@pytest.mark.parametrize(
    "statement",
    [
        "import evomerge",
        "import evomerge.campaign.campaign, evomerge.search_space",
        "import evomerge.cli",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = f"""
import sys
{statement}
heavy = {{"torch", "transformers", "lm_eval", "ray", "pymoo", "optuna", "datasets"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
