"""Runs in the oracle environment: `run_functions.py FOLDER`, merge functions of other libraries on tensors.

FOLDER holds `models.safetensors` (`MODEL/TENSOR`, float32), `draws.safetensors` (the same names, int32 in
[0, 2**31)) and `jobs.json`: a list of {"name", "function", "experts", ...}, the rest the function's own
arguments. Each job's result goes to `NAME.safetensors`. Random draws are replaced by the given ones.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import torch
from fusion_bench.method.dare.utils import param_random_drop_
from fusion_bench.method.model_stock.model_stock import compute_angle, compute_ratio, merge_weights
from fusion_bench.method.simple_average import simple_average
from fusion_bench.method.slerp.slerp_utils import slerp
from fusion_bench.method.task_arithmetic.task_arithmetic import task_arithmetic_merge
from fusion_bench.method.ties_merging.ties_merging_utils import ties_merging
from peft.utils import merge_utils
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
_drawn: list[torch.Tensor] = []


def bernoulli(probabilities):
    shares = _drawn.pop(0).double() / 2**31
    return (shares.reshape(probabilities.shape) < probabilities).to(probabilities.dtype)


def rand_like(values):
    # What is above the sparsity stays there: of these numbers as many as are below the density.
    return 1 - _drawn.pop(0).double().reshape(values.shape) / 2**31


torch.bernoulli, torch.rand_like = bernoulli, rand_like


def by_tensor(merge):
    """A function of one tensor (base, experts, draws) for all of them."""

    def run(job, base, experts, draws):
        merged = {}
        for name, start in base.items():
            _drawn[:] = [drawn[name] for drawn in draws]
            merged[name] = merge(job, start, [expert[name] for expert in experts])
        return merged

    return run


def of_deltas(function):
    def merge(job, base, experts):
        more = [job["density"]] if "density" in job else []
        return base + function([x - base for x in experts], torch.tensor(job["weights"]), *more)

    return by_tensor(merge)


def drop_and_add(job, base, experts):
    total = base.clone()
    for weight, expert in zip(job["weights"], experts, strict=True):
        delta = expert - base
        param_random_drop_(delta, 1 - job["density"], rescale=True)
        total += weight * delta
    return total


def over_the_model(job, base, experts, draws):
    flat = [torch.cat([expert[name].reshape(-1) - base[name].reshape(-1) for name in base])
            for expert in experts]  # fmt: skip
    merged = job["scale"] * ties_merging(torch.stack(flat), job["density"], job["mean_or_sum"])
    parts = merged.split([tensor.numel() for tensor in base.values()])
    return {name: base[name] + part.reshape(base[name].shape)
            for name, part in zip(base, parts, strict=True)}  # fmt: skip


def as_modules(job, base, experts, draws):
    # Buffers: of parameters the function refuses the sum, which is none.
    made = []
    for model in (base, *experts):
        made.append(torch.nn.Module())
        for number, name in enumerate(base):
            made[-1].register_buffer(str(number), model[name].clone())
    merged = task_arithmetic_merge(made[0], made[1:], job["scale"]).state_dict()
    return dict(zip(base, merged.values(), strict=True))


def stock(job, base, experts, draws):
    first, second = experts
    return merge_weights(first, second, base, compute_ratio(compute_angle(first, second, base)))


FUNCTIONS = {
    "peft task_arithmetic": of_deltas(merge_utils.task_arithmetic),
    "peft magnitude_prune": of_deltas(merge_utils.magnitude_prune),
    "peft ties": of_deltas(merge_utils.ties),
    "peft dare_linear": of_deltas(merge_utils.dare_linear),
    "peft dare_ties": of_deltas(merge_utils.dare_ties),
    "fusion-bench simple_average": by_tensor(lambda job, base, experts: simple_average(experts)),
    "fusion-bench task_arithmetic_merge": as_modules,
    "fusion-bench ties_merging": over_the_model,
    "fusion-bench param_random_drop_": by_tensor(drop_and_add),
    "fusion-bench slerp": by_tensor(lambda job, base, experts: slerp(job["t"], *experts)),
    "fusion-bench merge_weights": stock,
}


def part(tensors, model):
    return {n.removeprefix(f"{model}/"): t for n, t in tensors.items() if n.startswith(f"{model}/")}


def main(folder: Path) -> None:
    models, draws = (load_file(folder / f"{name}.safetensors") for name in ("models", "draws"))
    for job in json.loads((folder / "jobs.json").read_text()):
        experts = [part(models, name) for name in job["experts"]]
        drawn = [part(draws, name) for name in job["experts"]]
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            merged = FUNCTIONS[job["function"]](job, part(models, "base"), experts, drawn)
        merged = {name: tensor.contiguous().float() for name, tensor in merged.items()}
        save_file(merged, str(folder / f"{job['name']}.safetensors"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
