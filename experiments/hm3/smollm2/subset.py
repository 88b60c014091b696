r"""Items of the study in this folder: the first of each split of `experiments/smollm2`.

As many as `COUNTS` says, once `experiments/smollm2/fetch.py` has made them:
`python experiments/hm3/smollm2/subset.py`.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
WHOLE = HERE.parents[2] / "evaluators" / "smollm2" / "tasks" / "data"
COUNTS = {"search": 30, "selection": 40, "test": 40}


def main() -> None:
    """Write them."""
    for task in ("translation", "math", "code"):
        for split, count in COUNTS.items():
            name = f"{task}_{split}.jsonl"
            lines = (WHOLE / name).read_text(encoding="utf-8").splitlines(keepends=True)
            (HERE / "tasks" / "data" / name).write_text("".join(lines[:count]), encoding="utf-8")


if __name__ == "__main__":
    main()
