"""An exported path scored by transformers alone, on the selection items of this folder.

    evomerge export runs/hm3/runs/path-hm3-20 prefer:math=0.7,code=0.3 out
    python experiments/hm3/plain_score.py out

Nothing of evomerge is imported. Of each item's choices the one with the highest log probability is taken, as
lm-eval does; the accuracies are those that `evomerge front` shows for the member.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

DATA = Path(__file__).resolve().parent / "tasks" / "data"


@torch.no_grad()
def main(folder: str) -> None:
    """Print layers and accuracies."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    print(f"{type(model).__name__}, {model.config.num_hidden_layers} layers")
    for task in ("translation", "math", "code"):
        items = [json.loads(row) for row in (DATA / f"{task}_selection.jsonl").read_text().splitlines()]
        right = 0
        for item in items:
            begun = len(tokenizer(item["question"]).input_ids)
            chances = []
            for choice in item["choices"]:
                tokens = tokenizer(item["question"] + choice, return_tensors="pt").input_ids
                logs = model(tokens).logits[0].log_softmax(-1)[:-1]
                chances.append(float(logs.gather(1, tokens[0, 1:, None])[begun - 1 :].sum()))
            right += chances.index(max(chances)) == item["answer"]
        print(f"{task}.acc {right / len(items):.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
