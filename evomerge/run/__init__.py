"""Run: the driver and its workers, from the first job to the last selection score.

In comes a checked campaign; out goes a ledger. The driver's half (`driver`, `search`, `replay`, `dispatch`,
`result_events`, `safeguards`, `racing_references`, `progress`) loads neither torch nor lm-eval; the worker's
half (`worker`, `engine`, `scoring`, `slope_measurement`) knows neither ledgers nor optimizers. Between them
`job` is plain data, and `pool/` decides where jobs run.

Read `job`, `worker`, `engine`, then `driver`, `search`, `replay` and `dispatch`.
"""

from evomerge.run.job import Job, JobResult, WorkerSetup

__all__ = [
    "Job",
    "JobResult",
    "WorkerSetup",
]
