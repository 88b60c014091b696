"""Step 9: what the gradient of all coefficients costs over an evaluation of the same items."""

from __future__ import annotations

from benchmarks.gpu.bed import Bed, done
from benchmarks.gpu.evaluating import METRIC
from benchmarks.gpu.report import Report
from evomerge.run.job import SlopeWork

MOST_BYTES = 6e9


def slope(bed: Bed, report: Report) -> None:
    """Layers are recomputed, as in every slope; the same job with weight 0 has no backward pass."""
    worker = bed.worker()
    items = tuple(range(8 if bed.tiny else 64))

    def job(number: int, weight: float) -> None:
        work = SlopeWork({METRIC: weight}, {METRIC: items})
        done(worker.run(bed.job("slope", number, slope=work)))

    job(20, 1.0)
    job(21, 0.0)
    evaluation = bed.least(lambda n: job(22 + n, 0.0), 2)
    at_rest = bed.allocated()
    took = bed.least(lambda n: job(24 + n, 1.0), 2)
    report.say(
        f"{len(items)} items: slope {took:.3f} s, evaluation {evaluation:.3f} s: "
        f"{report.asked(took / evaluation, 4)}",
        ratio=took / evaluation, slope_seconds=took, evaluation_seconds=evaluation,
    )  # fmt: skip
    peak = bed.peak(lambda: job(26, 1.0)) - at_rest
    if bed.device != "cpu":
        report.say(
            f"peak above what is loaded (GB) {report.asked(peak / 1e9, MOST_BYTES / 1e9)}", peak=peak
        )
