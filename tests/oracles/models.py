"""Models both programs merge: tiny random ones, the quickstart's experts, ones whose vocabularies differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.checkpoint.test_vocabulary import change_tokens
from tests.tiny_models import write_model

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart" / "models"
TINY = ("math", "code", "chat")


def folder_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint folder."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def write_tiny(root: Path) -> tuple[str, ...]:
    """A base and three experts of three layers, float32; gives the experts' names."""
    write_model(root / "base", dtype=torch.float32, num_hidden_layers=3)
    for number, expert in enumerate(TINY):
        write_model(root / expert, expert=number, dtype=torch.float32, num_hidden_layers=3)
    return TINY


def write_vocabularies(root: Path) -> tuple[str, ...]:
    """The tiny models, each with words and a special token that others lack."""
    names = write_tiny(root)
    change_tokens(root / "base", (), (), "<base>", 40)
    change_tokens(root / "math", ("bird", "cat"), ("sum", "both"), "<tool>", 38)
    change_tokens(root / "code", ("dog",), ("both", "def"), "<fim>", 44)
    change_tokens(root / "chat", ("tree",), ("hello",), "<turn>", 40)
    return names


def write_quickstart(root: Path) -> tuple[str, ...]:
    """The quickstart's models in float32, without ties; gives the experts' names.

    Of task vectors between bfloat16 checkpoints one entry in a hundred has the magnitude of the last that
    is kept: mergekit keeps an arbitrary part of those, we keep all. That difference is known, and would
    hide others, in every entry of a tensor where its sum of magnitudes is restored. So all weights get noise
    of a fraction of a bfloat16 step, until no two entries tie.
    """
    names = sorted(p.name for p in QUICKSTART.iterdir() if (p / "config.json").is_file())
    generator = torch.Generator().manual_seed(0)
    base: dict[str, torch.Tensor] = {}
    for name in sorted(names, key=lambda name: (name != "base", name)):
        shutil.copytree(QUICKSTART / name, root / name, ignore=shutil.ignore_patterns("*.safetensors*"))
        tensors = {}
        for tensor, stored in folder_tensors(QUICKSTART / name).items():
            values = stored.float()
            noise = 2**-11 * float(values.abs().mean())
            values += noise * torch.randn(values.shape, generator=generator)
            if base:
                values = without_ties(values, base[tensor], noise, generator)
            tensors[tensor] = values
        base = base or tensors
        save_file(tensors, str(root / name / "model.safetensors"), metadata={"format": "pt"})
        config = json.loads((root / name / "config.json").read_text()) | {"dtype": "float32"}
        (root / name / "config.json").write_text(json.dumps(config))
    return tuple(name for name in names if name != "base")


def without_ties(
    values: torch.Tensor, base: torch.Tensor, noise: float, generator: torch.Generator
) -> torch.Tensor:
    """`values`, float32, with normal noise on some until no two magnitudes of `values - base` are equal."""
    values = values.clone()
    for _ in range(1000):
        sizes, order = (values - base).abs().flatten().sort()
        tied = order[1:][sizes[1:] == sizes[:-1]]
        if not len(tied):
            return values
        values.view(-1)[tied] += noise * torch.randn(len(tied), generator=generator)
    raise ValueError("the noise is too small to tell all entries apart")
