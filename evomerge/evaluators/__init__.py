"""Evaluators: a `Subject` to `Scores`, item by item, in fixed blocks.

In come a declaration (YAML) and a live model; out come a score and a per-item result for each metric.
Reading and checking declarations loads neither torch, transformers nor lm-eval; opening an evaluator
does.

Read `evaluator` (the seam), `declaration` and `kinds`, then a kind: `lm_eval_declaration` and
`lm_eval_tasks` with their parts (`task_files`, `loading`, `templates`, `requests`, `packed`, `packing`,
`margins`, `generation`, `code_execution`, `confined`, `splits`, `results_file`), `perplexity`,
`generation_length`, `whole_model`, `python_callable` (with `registered`, `items`, `item_files`,
`item_evaluator`).
`losses` is the seam of those with a differentiable loss, `questions` what lm-eval's items ask there.
`judge` puts all evaluators to one model, `racing` decides when a candidate is given up, `canary` finds
broken models early.
"""

from evomerge.evaluators.declaration import Declaration
from evomerge.evaluators.evaluator import BlockEvaluator, Evaluator, Subject
from evomerge.evaluators.kinds import KINDS, load_declaration, open_evaluator

__all__ = [
    "KINDS",
    "BlockEvaluator",
    "Declaration",
    "Evaluator",
    "Subject",
    "load_declaration",
    "open_evaluator",
]
