"""Evaluators: a `Subject` to `Scores`, item by item, in fixed blocks.

In come a declaration (YAML) and a live model; out come a score and a per-item result for each metric.
Reading and checking declarations loads neither torch, transformers nor lm-eval; opening an evaluator
does.

Read `evaluator` (the seam), `declaration` and `kinds`, then a kind. lm-eval's tasks: `lm_eval_declaration`
and `lm_eval_tasks` with their parts (`task_files`, `data`, `loading`, `templates`, `requests`, `packed`,
`forward`, `packing`, `judging`, `margins`, `resampling`, `generation`, `continuous`, `code_execution`,
`confined`), and `splits` and `results_file`, which write such tasks and their results. Kinds of our own:
`perplexity`, `generation_length`, `whole_model`, `classification` of `texts` and `pictures`,
`python_callable` with `registered`; their items are read by `item_evaluator`, `items` and `item_files`. For
all kinds: `losses` (what a gradient can be taken of) and `questions` (what lm-eval's items ask there),
`item_texts` (what items say, for people), `judge` (all evaluators put to one model), `racing` (when a
candidate is given up), `canary` (finds broken models early).
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
