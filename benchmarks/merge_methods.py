r"""Every merge method at the same budget: the best it finds, and what a candidate costs.

A study with an arm for each method, in the method's own default space (one value of each coefficient for
the whole model). The calibration text of `regmean` and `fisher` is drawn as the experts' training items
are, and stands in no split. Methods of two models are left out of a bed with three. What one arm has
measured (baselines, equal merges) no other measures again.

    python benchmarks/merge_methods.py experiments/quickstart/campaign.yaml \
        --out runs/merge_methods --evaluations 12
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from evomerge.recipe.catalogue import METHODS

BED = Path(__file__).resolve().parent.parent / "experiments" / "quickstart"


def calibration_text(file: Path, count: int) -> None:
    """Lines of each of the bed's tasks, made by the bed's own script."""
    drawn = file.with_suffix(".jsonl")
    subprocess.run(
        [sys.executable, BED / "held_out_texts.py", drawn, "--count", str(count)], check=True
    )
    lines = [json.loads(line) for line in drawn.read_text(encoding="utf-8").splitlines()]
    file.write_text(
        "".join(f"{each['context']}{each['answer']}".replace("\n", " ") + "\n" for each in lines)
    )


def space_of(name: str, text: Path) -> dict[str, Any]:
    """A method's default space; where that searches nothing, its `lambda`."""
    method = METHODS[name]
    space: dict[str, Any] = {"schema": 1, "method": name}
    if not any(each.free for each in method.coefficients):
        space["coefficients"] = {"lambda": {}}
    if method.on_inputs is not None:
        space["calibration"] = str(text)
    return space


def main() -> None:
    """Write the arms and run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--evaluations", type=int, default=12)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--experts", type=int, default=3, help="how many the campaign has")
    parser.add_argument("--methods", nargs="*", default=sorted(METHODS))
    parser.add_argument("--items", type=int, default=16, help="calibration lines of each task")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = (arguments.out / "calibration.txt").resolve()
    if not text.exists():
        calibration_text(text, arguments.items)
    arms: dict[str, dict[str, Any]] = {}
    for name in arguments.methods:
        least, most = METHODS[name].inputs
        if least <= arguments.experts <= (most or arguments.experts):
            arms[name] = {"search_space": space_of(name, text)}
    common = {
        "optimizer": {"kind": "nsga2", "population": min(8, arguments.evaluations)},
        "budget": {"evaluations": arguments.evaluations},
        "baselines": {"single": [0.4, 0.8]},
        "workers": {"pool": "inline", "count": 1},
    }
    stated = {name: common | changes for name, changes in arms.items()}
    file = arguments.out / "arms.yaml"
    file.write_text(json.dumps({"schema": 1, "arms": stated}, indent=1))
    command = [
        sys.executable, "-m", "evomerge.cli", "study", "run", arguments.campaign, "--arms", file,
        "--dir", arguments.out / "study", "--seeds", arguments.seeds, "--markdown",
    ]  # fmt: skip
    sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
