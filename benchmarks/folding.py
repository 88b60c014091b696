"""What folding scales into weights changes, on trained models: logits of real items.

Paths through the layers of a campaign's models, edits of the layers in order with a random scale at each
step. Each is made twice: folded, as live models and exports are, and with layers that multiply the residual
stream on its way in, whose weights are as they were.

    python -m benchmarks.folding [CAMPAIGN [PATHS [DTYPE]]]

prints for each path, with folded weights stored in DTYPE (float32), the largest difference of a logit over
all tokens of search items, the largest logit, the share of tokens whose most likely next one is the same,
the largest difference of a token's log probability, and the mean square of the stream where it is least,
against which the norms' epsilon is to be held.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.campaign.campaign import load_campaign
from evomerge.checkpoint.folder import open_folder
from evomerge.checkpoint.reader import open_readers
from evomerge.merge.materialize import LiveModel
from evomerge.merge.plan import make_plan
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.optimizers.path_operators import edited
from evomerge.recipe.recipe import CheckpointSource, Recipe
from evomerge.search_space import LayerPaths, LayerPathSection, Step, build_layer_paths

ITEMS = 20
SCALE = {"low": 0.5, "high": 1.5, "step": 0.05}


def scaled_on_the_way(models: dict[str, Any], paths: LayerPaths, path: Sequence[Step]) -> Any:
    """The outer model with the path's layers, the stream multiplied before each: no weight is touched."""
    found = copy.deepcopy(models[paths.outer])
    layers = []
    for number, (choice, scale) in enumerate(path):
        source, layer = paths.choices[choice]
        twin = copy.deepcopy(models[source].model.layers[layer])
        twin.self_attn.layer_idx = number

        def entering(_: Any, args: Any, kwargs: Any, scale: float = scale) -> Any:
            return (args[0] * scale, *args[1:]), kwargs

        twin.register_forward_pre_hook(entering, with_kwargs=True)
        layers.append(twin)
    found.model.layers = torch.nn.ModuleList(layers)
    found.config.num_hidden_layers = len(layers)
    return found


def drawn(paths: LayerPaths, rng: np.random.Generator) -> tuple[Step, ...]:
    """Some edits of the layers in order of a source, with scales from the whole grid."""
    path = paths.identity(paths.sources[rng.integers(len(paths.sources))])
    for _ in range(int(rng.integers(1, 4))):
        path = edited(paths, path, rng)
    grid = np.round(np.arange(SCALE["low"], SCALE["high"] + 1e-9, SCALE["step"]), 12)
    return tuple((choice, float(rng.choice(grid))) for choice, _ in path)


def main() -> None:
    """Print a line a path, and the worst of each."""
    torch.set_num_threads(1)
    usual = ("experiments/quickstart/campaign.yaml", "12", "float32")
    words = [*sys.argv[1:], *usual[len(sys.argv) - 1 :]]
    campaign, count = load_campaign(Path(words[0])), int(words[1])
    given = {"base": campaign.config.base, **campaign.config.experts}
    folders = {name: str(campaign.file.parent / str(each.path)) for name, each in given.items()}
    sources = {name: open_folder(Path(path), name) for name, path in folders.items()}
    models = {
        name: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for name, path in folders.items()
    }
    section = LayerPathSection.model_validate(
        {"sources": ["base", "experts"], "outer": "base", "scale": SCALE}
    )
    depth = len(models["base"].model.layers)
    paths = build_layer_paths(section, depth, tuple(campaign.experts), "")
    tokenizer = AutoTokenizer.from_pretrained(folders["base"])
    tokens = [tokenizer(text, return_tensors="pt").input_ids for text in texts()]
    live = LiveModel.load(sources["base"], "float32", max_layers=paths.most)
    rng = np.random.default_rng(1)
    print(f"norm epsilon {models['base'].config.rms_norm_eps}")
    print("layers | largest difference | largest logit | same argmax | log probability | least square")
    rows = []
    for _ in range(count):
        path = drawn(paths, rng)
        recipe = Recipe(
            {name: CheckpointSource(folders[name]) for name in folders},
            paths.layer_steps(path),
            dict.fromkeys(("embed", "final_norm"), "base"),
            words[2],
        )
        plan = make_plan(recipe, sources, WeightStatistics(sources))
        live.materialize(plan, open_readers(sources))
        row = compared(live.model, scaled_on_the_way(models, paths, path), tokens)
        rows.append(row)
        print(f"{len(path)} | " + " | ".join(f"{value:.3g}" for value in row), flush=True)
    table = np.array(rows)
    worst = [*table[:, :2].max(axis=0), table[:, 2].min(), table[:, 3].max(), table[:, 4].min()]
    print("worst | " + " | ".join(f"{value:.3g}" for value in worst))


def texts() -> list[str]:
    """Search items of the quickstart's tasks, with their right answers."""
    folder = Path(__file__).resolve().parent.parent / "evaluators/quickstart/tasks/data"
    found = []
    for file in sorted(folder.glob("*_search.jsonl")):
        for line in file.read_text().splitlines()[:ITEMS]:
            item = json.loads(line)
            found.append(item["question"] + item["choices"][item["answer"]])
    return found


@torch.no_grad()
def compared(folded: Any, scaled: Any, tokens: Sequence[torch.Tensor]) -> tuple[float, ...]:
    """Numbers of a line; see the module."""
    seen: list[torch.Tensor] = []
    hooks = [
        part.register_forward_hook(
            lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for part in (scaled.model.embed_tokens, *scaled.model.layers)
    ]
    apart = highest = chance = 0.0
    same: list[bool] = []
    for row in tokens:
        found, expected = folded(row).logits[0], scaled(row, use_cache=False).logits[0]
        apart = max(apart, float((found - expected).abs().max()))
        highest = max(highest, float(expected.abs().max()))
        same += (found.argmax(-1) == expected.argmax(-1)).tolist()
        logs = found.log_softmax(-1) - expected.log_softmax(-1)
        chance = max(chance, float(logs[:-1].gather(1, row[0, 1:, None]).abs().max()))
    for hook in hooks:
        hook.remove()
    least = min(float(stream.pow(2).mean(-1).min()) for stream in seen)
    return apart, highest, float(np.mean(same)), chance, least


if __name__ == "__main__":
    main()
