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
# Which merges are searched: base + sum of weight * (expert - base), with a weight for each expert and weight
# matrix (one for the norms of a layer together), which `auto` learns by gradients. `evomerge list methods`
# shows the other methods and their coefficients.
schema: 1
method: task_arithmetic
coefficients:
  weight:
    # `row`, a weight for each row of a matrix, gave better fronts with 300 search items a task, not with 100.
    # Without gradients `layer` is about as good. Coarser than `tensor` too: `layer_module`, `band`, `model`.
    field: tensor
    low: 0.0
    high: 1.5
"""

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
optimizer: {{kind: auto, population: 8}}
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
