"""What a worker says of errors that are not its candidate's fault."""

import pytest
import torch

from evomerge.run.job import Job
from evomerge.run.worker import Worker
from tests.run.pool.toy_runner import SETUP


class AcceleratorError(RuntimeError):
    """Named as torch names a device's fault."""


@pytest.mark.parametrize(
    ("error", "status", "failure"),
    [
        (MemoryError(), "lost", "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "lost", "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "lost", "out_of_memory"),
        (AcceleratorError("CUDA error: out of memory"), "lost", "out_of_memory"),
        (AcceleratorError("CUDA error: an illegal memory access was encountered"), "lost", "device_error"),
        (RuntimeError("CUDA error: device-side assert triggered"), "lost", "device_error"),
        (RuntimeError("shapes differ"), "failed", "error"),
        (ValueError("CUDA error"), "failed", "error"),
    ],
)  # fmt: skip
def test_a_device_that_fails_costs_a_worker_and_not_its_candidate(error, status, failure):
    class Broken:
        def evaluate(self, job):
            raise error

    worker = Worker(SETUP)
    worker._engine = Broken()
    result = worker.run(Job("c00000", "evaluate"))
    assert (result.status, result.failure) == (status, failure)
