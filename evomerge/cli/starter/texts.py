"""The YAML files of the starter, with comments that say what to change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

EVALUATOR = """\
# yaml-language-server: $schema=../schemas/evaluator.json
# An evaluator: one lm-eval task for each split. To use a task of your own, put its files into `tasks/`
# (or another folder) and name its tasks here. The three splits must hold different items.
schema: 1
kind: lm_eval
name: {name}                 # metrics are called {name}.acc and so on
include_path: tasks
tasks: {{search: {name}_search, selection: {name}_selection, test: {name}_test}}
metrics: [acc]
"""

SEARCH_SPACE = """\
# yaml-language-server: $schema=schemas/search-space.json
# Which merges are searched: base + sum of weight * (expert - base), with a weight for each expert in
# each {part}. `evomerge list methods` shows the other methods and their coefficients.
schema: 1
method: task_arithmetic
coefficients:
  weight:
{field}
    outside_layers: shared   # embeddings go with the first of these, final norm and head with the last;
                             # `own` gives them weights of their own
    low: 0.0
    high: 1.5
    step: 0.01
"""

BANDS = 4

CAMPAIGN = """\
# yaml-language-server: $schema=schemas/campaign.json
# A starter campaign. Look at it with `evomerge check`, start it or go on with it with
#   evomerge run {file} --dir FOLDER
schema: 1
name: starter
seed: 20
{models}
search_space: search_space.yaml
{tasks}
optimizer: {{kind: auto, population: {population}}}
budget: {{evaluations: {evaluations}}}      # `hours: 8` works too; whichever ends first
evaluation:
  dtype: {dtype}
  batch_size: 32
  threads: 1
  device: cpu                # or cuda
workers: {{pool: local, count: 1}}
"""


TOY_TASKS = "Two small example tasks. Put your own evaluators here, and their metrics below."
OWN_TASKS = "Each with its own search, selection and test items, made by `evomerge split`."


def search_space(layers: int | None) -> str:
    """The search space of a base with so many layers; by layer, which fits any, where nobody knows."""
    kinds = "# model, band, layer, layer_module or tensor"
    field = "band" if layers else "layer"
    lines = [f"    {f'field: {field}':<25}{kinds}"]
    lines += [f"    bands: {min(BANDS, layers)}"] if layers else []
    return SEARCH_SPACE.format(part="band of layers" if layers else "layer", field="\n".join(lines))


def tasks_block(about: str, files: Sequence[str], objectives: Mapping[str, str]) -> str:
    """The `evaluators` and `objectives` fields; objectives are metrics to directions."""
    lines = [f"# {about}", f"evaluators: [{', '.join(files)}]", "objectives:"]
    lines += [f"  - {_flow({'metric': m, 'direction': d})}" for m, d in objectives.items()]
    return "\n".join(lines)


def models_block(base: Mapping[str, str], experts: Mapping[str, Mapping[str, str]]) -> str:
    """The `base` and `experts` fields."""
    lines = [f"base: {_flow(base)}", "experts:"]
    lines += [f"  {_scalar(name)}: {_flow(place)}" for name, place in experts.items()]
    return "\n".join(lines)


def _flow(fields: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name}: {_scalar(value)}" for name, value in fields.items()) + "}"


def _scalar(text: str) -> str:
    # JSON strings are YAML strings; quoting keeps `no`, `1e3` and paths with `: ` what they are.
    return json.dumps(text, ensure_ascii=False)
