"""Runs with transformers 4: `run_transformers4.py JOBS.json`, each job a line of JSON on stdout.

`{"make": FOLDER, "config": CLASS, "fields": {...}}` saves a random model as FOLDER/base and another, near it,
as FOLDER/expert, both in float32. `{"read": FOLDER, "tokens": [...], "text": ..., "out": FILE}` writes the
logits of a model and answers with what its tokenizer makes of the text.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


def make(folder: Path, config: str, fields: dict) -> dict:
    torch.manual_seed(0)
    kind = getattr(transformers, config)
    model = transformers.AutoModelForCausalLM.from_config(kind(**fields))
    for name, spread in (("base", 0.2), ("expert", 0.02)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * spread)
        model.save_pretrained(folder / name)
    return {"folder": str(folder)}


def read(folder: Path, tokens: list[int], text: str, out: str) -> dict:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits
    save_file({"logits": logits.contiguous()}, out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return {"folder": str(folder), "ids": tokenizer(text)["input_ids"]}


def main(jobs_file: Path) -> None:
    for job in json.loads(jobs_file.read_text()):
        folder = Path(job.get("make") or job["read"])
        try:
            if "make" in job:
                said = make(folder, job["config"], job["fields"])
            else:
                said = read(folder, job["tokens"], job["text"], job["out"])
        except Exception as error:  # one family that fails must not hide the others
            said = {"folder": str(folder), "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
