"""Write texts in the shapes that only the base model was taught, for `benchmarks/fine_tuning.py --texts`.

None of them is in any split: they are drawn as training items are, by another seed.
"""

import argparse
import json
from pathlib import Path

from items import draw, frame
from tasks import PLAIN_SHAPES, TASKS


def main() -> None:
    """Write JSON lines of `context` and `answer`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=100, help="of each task, and of echoes")
    arguments = parser.parse_args()
    lines = []
    for task, shape in PLAIN_SHAPES.items():
        items = draw(TASKS[task], "train", 2 * arguments.count, f"{task} held out", unique=True)
        for item in items[: arguments.count]:
            lines.append({"context": shape.format(item.question), "answer": item.gold})
        for item in items[arguments.count : arguments.count + arguments.count // 3 + 1]:
            lines.append({"context": frame(f"echo {item.question}"), "answer": f" {item.question}"})
    arguments.file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


if __name__ == "__main__":
    main()
