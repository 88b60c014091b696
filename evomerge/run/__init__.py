"""Run: the driver and its workers, from the first job to the last selection score.

In comes a checked campaign; out goes a ledger. Two halves: the driver's loads neither torch nor lm-eval, the
worker's (`worker`, `engine`, `scoring`, `slope_measurement`) knows neither ledgers nor optimizers. Between
them `job` is plain data, and `pool/` decides where jobs run.

Read `job`, `worker`, `engine`; then `driver` (the phases), `search` and `replay` (the desk of a schedule),
`dispatch` with `open_work` and `result_events` (jobs out, results into the ledger), `safeguards` and `limits`
(when to try again, when to stop); at last `standing`, `pace` and `watch` (how far it is) and `tracking/`.
"""

from evomerge.run.job import Job, JobResult, WorkerSetup

__all__ = [
    "Job",
    "JobResult",
    "WorkerSetup",
]
