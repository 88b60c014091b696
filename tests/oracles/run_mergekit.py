"""Runs in the oracle environment: `run_mergekit.py JOBS.json`, one mergekit merge for each job.

A job is {"yaml", "out", "folder"?, "load"?, "draws"?}. mergekit runs in `folder`. With `load` the result is
loaded too, within the CPU seconds that are printed. `draws` is a safetensors file with the numbers that
evomerge compares with probabilities, int32 in [0, 2**31), called `FOLDER/TENSOR`; mergekit's Bernoulli draws
are replaced by comparisons with them, so that both drop the same entries.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import mergekit.merge_methods.generalized_task_arithmetic as family
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import MergeOptions, run_merge
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
_bernoulli, _sparsify = torch.bernoulli, family.sparsify
_merge_group = family.GeneralizedTaskArithmeticMerge.merge_group
_state: dict = {"draws": None, "tensor": "", "models": []}


def merge_group(self, group, /, **parameters):
    _state["tensor"] = group.metadata.name
    _state["models"] = [Path(str(entry.id)).name for entry in group.non_base]
    return _merge_group(self, group, **parameters)


def sparsify(*arguments, **named):
    _state["model"] = _state["models"].pop(0)
    return _sparsify(*arguments, **named)


def bernoulli(probabilities, *arguments, **named):
    if _state["draws"] is None:
        return _bernoulli(probabilities, *arguments, **named)
    drawn = _state["draws"][f"{_state['model']}/{_state['tensor']}"].reshape(probabilities.shape)
    limits = (probabilities.double() * 2**31).round()
    return (drawn.double() < limits).to(probabilities.dtype)


family.GeneralizedTaskArithmeticMerge.merge_group = merge_group
family.sparsify = sparsify
torch.bernoulli = bernoulli


def main(jobs_file: Path) -> None:
    jobs = json.loads(jobs_file.read_text())
    for job in jobs:
        _state["draws"] = load_file(job["draws"]) if job.get("draws") else None
        text = Path(job["yaml"]).read_text()
        config = MergeConfiguration.model_validate(yaml.safe_load(text))
        options = MergeOptions(quiet=True, write_model_card=False, lora_merge_cache=job.get("cache"))
        # The loaders of an earlier job would keep files open that were replaced since.
        LoaderCache().loaders.clear()
        started = time.process_time()
        try:
            with contextlib.chdir(job.get("folder", ".")):
                run_merge(config, job["out"], options)
            if job.get("load"):
                AutoModelForCausalLM.from_pretrained(job["out"], dtype="auto")
            print(json.dumps({"out": job["out"], "cpu": time.process_time() - started}), flush=True)
        except Exception as error:  # one method that fails must not hide the others
            print(
                json.dumps({"out": job["out"], "error": f"{type(error).__name__}: {error}"}), flush=True
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
