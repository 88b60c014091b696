"""Models of real shapes with random weights, made where they are used; clocks that wait for the device."""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.evaluate import random_tokenizer, write_items
from evomerge.checkpoint.folder import CheckpointFolder
from evomerge.checkpoint.header import TensorHeader
from evomerge.checkpoint.layout import layer_names
from evomerge.checkpoint.reader import TensorReader
from evomerge.merge.statistics.weights import WeightStatistics
from evomerge.recipe.recipe import CheckpointSource, MergedSource, Recipe, single_source_recipe
from evomerge.run.job import Job, JobResult, WorkerSetup
from evomerge.run.worker import Worker

EXPERTS = ("one", "two")
NOISE = 0.004
"""Half of the width of the uniform noise by which an expert differs from the base."""

SHAPES: dict[str, Any] = {
    # The widths of Qwen2.5-1.5B and of Llama-3.1-8B, both as a Llama (word tokenizers load with it).
    "1.5 B": lambda: LlamaConfig(
        vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=4096,
        tie_word_embeddings=True,
    ),
    "8 B": lambda: LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=4096,
    ),
    "tiny": lambda: LlamaConfig(
        vocab_size=4096, hidden_size=64, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        tie_word_embeddings=True,
    ),
}  # fmt: skip


class HeldReader(TensorReader):
    """A model whose tensors lie on a device, and in no file."""

    def __init__(self, folder: CheckpointFolder, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__(folder)
        self.tensors = tensors

    def read(self, name: str) -> torch.Tensor:
        """Tensor `name` itself."""
        return self.tensors[name]


class UniformStatistics(WeightStatistics):
    """Thresholds as uniform noise has them: ranking billions of weights is `prepare`'s part, not a pass's."""

    def threshold(
        self, base: str, expert: str, tensor: str, density: float, binary: bool = False
    ) -> float:
        """The magnitude that a share `density` of the task vector exceeds."""
        return NOISE * (1.0 - density)


@dataclass
class Family:
    """A base and its experts on a device."""

    folders: dict[str, CheckpointFolder]
    readers: dict[str, HeldReader]

    @cached_property
    def statistics(self) -> UniformStatistics:
        """What plans are made with."""
        return UniformStatistics(self.folders, None, {n: n for n in self.folders}, self.readers)

    @property
    def elements(self) -> int:
        """Of one model."""
        return sum(header.elements for header in self.folders["base"].tensors.values())


def make_family(folder: Path, shape: str, device: str) -> Family:
    """Random bfloat16 weights: a base, and experts that differ from it by uniform noise."""
    config = SHAPES[shape]()
    automatic: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = automatic.from_config(config, dtype=torch.bfloat16)
    config.architectures = [type(model).__name__]
    config.dtype = torch.bfloat16
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    # A tied head is one parameter with the embedding, and has no name of its own here.
    shapes = {name: tuple(each.shape) for name, each in model.named_parameters()}
    headers, offset = {}, 0
    for name, extents in shapes.items():
        size = 2 * torch.Size(extents).numel()
        headers[name] = TensorHeader("held", "bfloat16", extents, offset, size)
        offset += size
    stated = json.loads((folder / "config.json").read_text())
    torch.manual_seed(0)
    base = {
        # Norms near one, all else as a fresh model has it.
        name: (1.0 if len(extents) == 1 and "norm" in name else 0.0)
        + 0.02 * torch.randn(extents, device=device, dtype=torch.bfloat16)
        for name, extents in shapes.items()
    }
    folders, readers = {}, {}
    for name in ("base", *EXPERTS):
        held = base
        if name != "base":
            held = {
                key: torch.empty_like(value).uniform_(-NOISE, NOISE).add_(value)
                for key, value in base.items()
            }
        folders[name] = CheckpointFolder(
            name, folder, stated, headers, bool(config.tie_word_embeddings), config.num_hidden_layers,
            layer_names(headers),
        )  # fmt: skip
        readers[name] = HeldReader(folders[name], held)
    return Family(folders, readers)


@dataclass
class Bed:
    """What all steps share.

    Attributes:
        device: `cuda` or `cpu`.
        tiny: whether sizes are such that a CPU takes seconds.
        folder: for files, removed by whoever made it.
    """

    device: str
    tiny: bool
    folder: Path
    _workers: dict[str, Worker] = field(default_factory=dict)

    def shape(self, name: str) -> str:
        """The shape that stands for one of a card's."""
        return "tiny" if self.tiny else name

    def wait(self) -> None:
        """Let the device finish."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any]) -> float:
        """Wall time of a piece of work, the device's included."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def least(self, work: Callable[[int], Any], repeats: int) -> float:
        """Least wall time of several runs, each given its number."""
        return min(self.seconds(lambda number=n: work(number)) for n in range(repeats))

    def allocated(self) -> int:
        """Device bytes in use; 0 on a CPU."""
        return 0 if self.device == "cpu" else torch.cuda.memory_allocated()

    def peak(self, work: Callable[[], Any]) -> int:
        """Most device bytes in use while work was done; 0 on a CPU."""
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return 0 if self.device == "cpu" else torch.cuda.max_memory_allocated()

    def clear(self) -> None:
        """Give back what a step has left."""
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()

    @cached_property
    def written(self) -> Path:
        """Base and experts of 1.5 B as checkpoint folders, and four-choice items."""
        root = self.folder / "written"
        family = make_family(root / "base", self.shape("1.5 B"), self.device)
        for name, reader in family.readers.items():
            (root / name).mkdir(exist_ok=True)
            tensors = {key: value.cpu() for key, value in reader.tensors.items()}
            save_file(tensors, str(root / name / "model.safetensors"), metadata={"format": "pt"})
            if name != "base":
                shutil.copy(root / "base" / "config.json", root / name)
        random_tokenizer().save_pretrained(root / "base")
        write_items(root, 16 if self.tiny else 600)
        return root

    def drop_workers(self) -> None:
        """Free the models of all workers."""
        self._workers.clear()
        self.clear()

    def worker(self, placement: Any = "auto") -> Worker:
        """A worker on the written models, with its model loaded."""
        if placement not in self._workers:
            root = self.written
            setup = WorkerSetup(
                sources={name: str(root / name) for name in ("base", *EXPERTS)},
                evaluators=(str(root / "declaration.yml"),), methods=("task_arithmetic",), trims=("tensor",),
                dtype="bfloat16", storage="bfloat16", device=self.device, threads=torch.get_num_threads(),
                batch_size=8 if self.tiny else 64, cache=str(self.folder / "cache"), experts=placement,
                kernels="plain" if self.tiny else "compiled",
            )  # fmt: skip
            worker = self._workers[placement] = Worker(setup)
            done(worker.run(self.job("evaluate", 0)))
        return self._workers[placement]

    def recipe(self, number: int) -> Recipe:
        """A candidate of the written models; each number is another."""
        sources = {name: CheckpointSource(str(self.written / name)) for name in ("base", *EXPERTS)}
        return candidate(sources, "task_arithmetic", number, SHAPES[self.shape("1.5 B")]())

    def job(self, kind: Any, number: int, **fields: Any) -> Job:
        """A job on such a candidate."""
        return Job(f"{kind}-{number}", kind, self.recipe(number).to_json(), **fields)


def candidate(sources: Mapping[str, CheckpointSource], method: str, number: int, config: Any) -> Recipe:
    """A merge of the experts by a method, with other weights for each number."""
    inputs = dict(zip(EXPERTS, (round(w + 0.01 * number, 3) for w in (0.3, 0.5)), strict=True))
    tables: dict[str, Any] = {"weight": {name: {"": value} for name, value in inputs.items()}}
    if "ties" in method:
        tables["density"] = {name: {"": 0.5} for name in EXPERTS}
    merged = MergedSource(method, EXPERTS, None if method == "linear" else "base", tables, {}, 7)
    return single_source_recipe(
        {**sources, "merged": merged}, "merged", config.num_hidden_layers, "bfloat16"
    )


def done(result: JobResult) -> JobResult:
    """A result that must be one.

    Raises:
        RuntimeError: the job failed.
    """
    if result.status != "ok":
        raise RuntimeError(f"{result.status} {result.failure}: {result.message}\n{result.traceback}")
    return result


def chunks(total: int, chunk: int) -> Iterator[int]:
    """Sizes of pieces that make up a total."""
    for start in range(0, total, chunk):
        yield min(chunk, total - start)


def copies(source: torch.Tensor, target: torch.Tensor, total: int) -> Sequence[torch.Tensor]:
    """Copy so many bytes from one uint8 tensor to another, a piece at a time."""
    return [
        target[:size].copy_(source[:size], non_blocking=True) for size in chunks(total, len(source))
    ]
