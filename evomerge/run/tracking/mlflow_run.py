"""MLflow: one run for a campaign folder, found again by a tag. `MLFLOW_TRACKING_URI` holds as usual."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from evomerge.run.tracking.record import About, Record

EXPERIMENT = "evomerge"
TAG = "evomerge.run"
LONGEST_PARAM = 500
MOST_PARAMS = 100

_NOT_ALLOWED = re.compile(r"[^\w./ -]")


class MlflowRun:
    """A run of MLflow; a later session with the same run goes on with it."""

    def __init__(self) -> None:
        self.client = MlflowClient()
        self.id = ""

    def start(self, about: About) -> None:
        """Begin or go on."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self.client.get_experiment_by_name(name)
        experiment = self.client.create_experiment(name) if found is None else found.experiment_id
        known = self.client.search_runs([experiment], f"tags.`{TAG}` = '{about.run}'", max_results=1)
        if known:
            self.id = known[0].info.run_id
            return
        run = self.client.create_run(experiment, tags={TAG: about.run}, run_name=about.campaign)
        self.id = run.info.run_id
        params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in flat(about.config).items()]
        self.client.log_batch(self.id, params=params[:MOST_PARAMS])

    def log(self, record: Record) -> None:
        """Add numbers."""
        values = {**record.values, "seconds": record.seconds}
        self._send(values, record.step)

    def finish(self, summary: Mapping[str, float]) -> None:
        """End it."""
        self._send(summary, 0)
        self.client.set_terminated(self.id)

    def _send(self, values: Mapping[str, float], step: int) -> None:
        now = round(1000 * time.time())
        named = [Metric(allowed(name), value, now, step) for name, value in values.items()]
        if named:
            self.client.log_batch(self.id, metrics=named)


def allowed(name: str) -> str:
    """A metric's name as MLflow takes it: `code.pass@1` becomes `code.pass_1`."""
    return _NOT_ALLOWED.sub("_", name)


def flat(config: Mapping[str, object], before: str = "") -> dict[str, object]:
    """Nested mappings as dotted names."""
    found: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{allowed(str(key))}.")
        else:
            found[f"{before}{allowed(str(key))}"] = value
    return found
