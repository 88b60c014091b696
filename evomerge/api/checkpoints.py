"""One checkpoint made or judged: `merge` and `score`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evomerge.campaign.devices import check_device
from evomerge.campaign.references import model_folder
from evomerge.export.stated import refuse_merge
from evomerge.export.taken import Taken
from evomerge.front.tables import scores_html
from evomerge.objectives.scores import Metric, Scores, Split
from evomerge.recipe.recipe import Recipe
from evomerge.run.scoring import score_checkpoint


@dataclass(frozen=True, repr=False)
class Exported:
    """A checkpoint that was written, with its scores by split, where there are any, and warnings."""

    path: Path
    scores: Mapping[str, Mapping[str, Metric]]
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        test = self.scores.get("test", {})
        values = ", ".join(f"{name} {metric.value:.4g}" for name, metric in test.items())
        notes = "".join(f"\nwarning: {text}" for text in self.warnings)
        return f"<Exported {self.path}{f': {values} on test items' if values else ''}>{notes}"

    def _repr_html_(self) -> str:
        return scores_html(str(self.path), self.scores)


def merge(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    tokenizer_from: str | None = None,
    chat_template_from: str | None = None,
) -> Exported:
    """Carry out one merge and write the checkpoint, reloaded and compared before it gets its name.

    Args:
        recipe: a mergekit YAML, a recipe in JSON, or a `Recipe`.
        out: the folder to write.
        overwrite: replace a model folder that is there.
        tokenizer_from: the model of the merge to have tokenizer and generation settings from.
        chat_template_from: the model to have the chat template from.

    Raises:
        EvomergeError: as `evomerge merge`; nothing half-written is left.
    """
    stated = recipe if isinstance(recipe, Recipe) else Path(recipe)
    taken = Taken(tokenizer_from, chat_template_from)
    refuse_merge(stated, Path(out), overwrite=overwrite, taken=taken)
    from evomerge.export.export import merge_recipe

    report = merge_recipe(stated, Path(out), overwrite=overwrite, taken=taken)
    return Exported(Path(out), report.scores, report.warnings)


def score(
    model: str | Path,
    evaluator: str | Path,
    *,
    split: Split = "test",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    batch_size: int = 32,
    device: str = "cpu",
    base: str | Path | None = None,
    allow_task_code: bool = False,
) -> Scores:
    """Score one checkpoint with one evaluator, by the code of a search.

    Args:
        model: a folder, or `org/name@COMMIT` from the local hub cache.
        evaluator: an evaluator file.
        split: whose items.
        dtype: of the evaluation.
        batch_size: rows of a batch.
        device: `cpu`, `cuda` or `cuda:N`.
        base: what distances are measured from.
        allow_task_code: let task files run the Python they name.

    Raises:
        EvomergeError: as `evomerge score`.
    """
    folder = model_folder(str(model), "model")
    check_device(device)
    return score_checkpoint(
        folder,
        Path(evaluator),
        split=split,
        dtype=dtype,
        batch_size=batch_size,
        device=device,
        base=None if base is None else model_folder(str(base), "base"),
        allow_task_code=allow_task_code,
    )
