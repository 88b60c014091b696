"""A front as a person holds it: members to pick, export and plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.api.checkpoints import Exported
from evomerge.export.choice import choose
from evomerge.export.stated import refuse_export
from evomerge.export.taken import Taken
from evomerge.front.front import Front as ComputedFront
from evomerge.front.front import Member as FrontMember
from evomerge.front.front import objective_index, pick
from evomerge.front.tables import front_html, front_records, headed, labels, scores_html, shown_metric
from evomerge.objectives.scores import Metric
from evomerge.recipe.recipe import Recipe

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Member:
    """One model of a front, or a baseline beside it."""

    directory: Path
    found: FrontMember

    @property
    def id(self) -> str:
        """As `evomerge show` and `export` take it."""
        return self.found.id

    @property
    def scores(self) -> Mapping[str, Mapping[str, Metric]]:
        """Metrics by split: `scores["selection"]["math.acc"].value`."""
        return self.found.metrics

    @property
    def recipe(self) -> Recipe:
        """The merge, wholly stated.

        Raises:
            CheckpointError: E201, a hub model is no longer in the local cache.
        """
        return choose(self.directory, self.id).recipe

    def export(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        rescore: bool = True,
        allow_task_code: bool = False,
        tokenizer_from: str | None = None,
        chat_template_from: str | None = None,
    ) -> Exported:
        """Write it as an ordinary checkpoint, reloaded and compared before it gets its name.

        Args:
            path: the folder to publish.
            overwrite: replace a model folder that is there.
            rescore: score it on test items; each use is counted.
            allow_task_code: let task files run the Python they name.
            tokenizer_from: the expert to have tokenizer and generation settings from.
            chat_template_from: the expert to have the chat template from.

        Raises:
            EvomergeError: as `evomerge export`; nothing half-written is left.
        """
        taken = Taken(tokenizer_from, chat_template_from)
        refuse_export(self.directory, self.id, Path(path), overwrite=overwrite, taken=taken)
        from evomerge.export.export import export_candidate

        report = export_candidate(
            self.directory,
            self.id,
            Path(path),
            overwrite=overwrite,
            rescore=rescore,
            allow_task_code=allow_task_code,
            taken=taken,
        )
        return Exported(Path(path), report.scores, report.warnings)

    @property
    def equals(self) -> tuple[str, ...]:
        """The baselines that are the same merge."""
        return self.found.equals

    def __repr__(self) -> str:
        return repr(self.found)

    def _repr_html_(self) -> str:
        return scores_html(self.id, self.scores)


@dataclass(frozen=True, repr=False)
class Front:
    """The models of which none is beaten on every objective, with the baselines beside them.

    Iterates over its members, the best mean of scaled scores first, as `evomerge front` shows them.
    """

    directory: Path
    found: ComputedFront

    @property
    def members(self) -> tuple[Member, ...]:
        """The models of the front."""
        return tuple(Member(self.directory, member) for member in self.found.members)

    @property
    def baselines(self) -> tuple[Member, ...]:
        """Base, experts, uniform average, greedy soup, best single coefficient: those that there are."""
        return tuple(Member(self.directory, member) for member in self.found.references)

    def __len__(self) -> int:
        return len(self.found.members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def pick(self, choice: str) -> Member:
        """The member a person asks for.

        Args:
            choice: the id of a member or baseline, `knee`, `best:METRIC`, `best:mean`, `best:worst`,
                `prefer:A=0.7,B=0.3` or a bound such as `math.acc>=0.6`.

        Raises:
            UsageError: E506 for an unknown one, E507 if none satisfies a bound.
        """
        return Member(self.directory, pick(self.found, choice))

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each member and baseline, with the columns of `evomerge front --csv`."""
        import pandas

        head, rows = front_records(self.found)
        return pandas.DataFrame(rows, columns=head)

    def plot(self, x: str | None = None, y: str | None = None, ax: Axes | None = None) -> Axes:
        """Members and baselines with standard errors, over two objectives.

        Args:
            x: a metric, or an evaluator with one objective; the first objective if None.
            y: the same; the second objective if None, or the only one.
            ax: where to draw; a new figure if None.

        Raises:
            UsageError: E506, if there is no such metric.
        """
        from matplotlib import pyplot

        names = [objective.metric for objective in self.found.objectives]
        across, up = self._metric(x or names[0]), self._metric(y or names[min(1, len(names) - 1)])
        axes: Axes = pyplot.subplots()[1] if ax is None else ax
        beside = labels(self.found)
        for kind, group in (("front", self.found.members), ("baselines", self.found.references)):
            # A baseline that was not scored on these items has no place among those that were.
            group = tuple(m for m in group if self.found.split in m.metrics)
            points = [m.metrics[self.found.split] for m in group]
            axes.errorbar(
                [point[across].value for point in points],
                [point[up].value for point in points],
                xerr=[point[across].stderr for point in points],
                yerr=[point[up].stderr for point in points],
                fmt="o" if kind == "front" else "s",
                elinewidth=0.5,
                label=kind,
            )
            for member, point in zip(group, points, strict=True):
                label = member.id if kind == "baselines" else beside[member.id]
                if label:
                    axes.annotate(label, (point[across].value, point[up].value), fontsize="small")
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_title(f"{self.found.campaign}, {self.found.split} items")
        axes.legend()
        return axes

    def _metric(self, name: str) -> str:
        """A metric that was measured, or the one that an evaluator has as an objective."""
        for member in (*self.found.members, *self.found.references):
            if name in member.metrics["search"]:
                return name
        return self.found.objectives[objective_index(self.found, name)].metric

    def __repr__(self) -> str:
        lines = [repr(self.found).strip("<>")]
        for member in self.found.members[:10]:
            metrics = member.metrics.get(self.found.split, {})
            cells = [
                f"{headed(o)} {shown_metric(o.metric, metrics[o.metric])}"
                for o in self.found.objectives
            ]
            same = f"  = {', '.join(member.equals)}" if member.equals else ""
            lines.append(f"  {member.id}  {'  '.join(cells)}{same}")
        more = len(self.found.members) - 10
        return "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])

    def _repr_html_(self) -> str:
        return front_html(self.found)
