"""Run: the driver and its workers, from the first job to the last selection score.

In comes a checked campaign; out goes a ledger. Two halves: the driver's loads neither torch nor lm-eval, the
worker's knows neither ledgers nor optimizers. Between them `job` is plain data, and `pool/` decides where
jobs run.

Read `job`; the worker's half: `worker`, `engine` (the loaded half of a worker), `scoring`,
`slope_measurement`, `generation_times`. The driver's half: `session` (one call of `run`, with its signals),
`driver` (the phases) with `campaign_folder`, `unchanged` (what no session may change) and `worker_setup`,
`starts` (points a search begins with) with `nearest`, `search` and `replay` (a campaign as a schedule sees
it) with `origins`, `dispatch` with `open_work`, `under_way`, `account`, `evaluation_key` and `result_events`
(jobs out, results into the ledger), `slopes` with `failed_lesson`, `racing_references`, `shared_results`,
`safeguards` and `limits` (when to try again, when to stop). What people see: `progress` (what displays are
told), `standing`, `pace` and `watch` (how far it is), `metrics`, `log`, `tracking/`; and before a run
`plan`, `deep_check` and `check_starts`.
`study/` runs many campaigns.
"""

from evomerge.run.job import Job, JobResult, WorkerSetup

__all__ = [
    "Job",
    "JobResult",
    "WorkerSetup",
]
