"""The worker: whoever waits for it hears how it ended, whatever happens on its thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_examples import N_LAYER, TinyModel, make_prompt

from edge_eds.apps.server.errors import ApiError, ClientGoneError
from edge_eds.apps.server.metrics import Metrics
from edge_eds.apps.server.worker import AnswerJob, Claim, Job, Result, Worker
from edge_eds.errors import PromptTooLongError
from edge_eds.runtime.energies import ModelFiles
from edge_eds.runtime.slots import Slots, Task

N_CTX = 4096


@pytest.fixture
def worker(tiny: TinyModel) -> Iterator[Worker]:
    path: Path = tiny("llama", n_layer=N_LAYER)
    worker = Worker(Slots(ModelFiles(path), n_parallel=2, n_ctx=N_CTX, n_threads=1), Metrics())
    yield worker
    worker.close()


def answer_job(n: int, claim: Claim | None = None, n_prompt: int = 9) -> AnswerJob:
    return AnswerJob(claim or Claim(30.0), Task(tuple(make_prompt(n_prompt)), n))


def result(job: AnswerJob) -> Result:
    for _ in job.pieces():
        pass
    assert job.result is not None
    return job.result


def test_many_jobs_from_many_threads_are_all_answered(worker: Worker) -> None:
    """With cancellations in between, at whatever moment they come."""
    found: dict[int, int] = {}

    def one(i: int) -> None:
        job = answer_job(5 + i)
        worker.submit(job)
        if i % 3 == 0:
            job.claim.cancel()
        try:
            found[i] = len(result(job).pieces)
        except ClientGoneError:
            found[i] = -1

    threads = [threading.Thread(target=one, args=(i,)) for i in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 30
    assert all(n in (5 + i, -1) for i, n in found.items())
    assert all(found[i] == 5 + i for i in range(30) if i % 3)


def test_a_bug_is_told_to_who_waits_and_the_next_job_runs(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Slots, "step", broken)
        job = answer_job(5)
        worker.submit(job)
        with pytest.raises(KeyError, match="a bug"):
            result(job)
    after = answer_job(5)
    worker.submit(after)
    assert len(result(after).pieces) == 5
    assert worker.is_alive


def test_a_job_that_cannot_begin_leaves_the_others_alone(worker: Worker) -> None:
    good, bad = answer_job(200), answer_job(5, n_prompt=N_CTX)
    probe = Job(Claim(30.0), lambda slots: slots.states(make_prompt(5), [2]))
    for job in (good, bad, probe):
        worker.submit(job)
    with pytest.raises(PromptTooLongError):
        result(bad)
    assert probe.wait()[2].shape == (1, 64)
    assert len(result(good).pieces) == 200


def test_a_claim_ends_its_answer_in_time(worker: Worker) -> None:
    late = answer_job(N_CTX, Claim(0.1))
    worker.submit(late)
    with pytest.raises(ApiError, match=r"limit of 0\.1 s"):
        result(late)


def test_draining_finishes_what_runs_and_refuses_what_waits(worker: Worker) -> None:
    jobs = [answer_job(600) for _ in range(3)]
    for job in jobs:
        worker.submit(job)
    next(jobs[0].pieces())
    next(jobs[1].pieces())
    worker.drain()
    with pytest.raises(ApiError, match="shutting down"):
        result(jobs[2])
    with pytest.raises(ApiError, match="shutting down"):
        worker.submit(answer_job(1))
    assert [result(job).finish_reason for job in jobs[:2]] == ["length", "length"]
    assert not worker.is_alive


def test_closing_waits_for_what_runs(tiny: TinyModel) -> None:
    worker = Worker(Slots(ModelFiles(tiny("llama", n_layer=N_LAYER)), n_ctx=N_CTX, n_threads=1), Metrics())
    job = answer_job(300)
    worker.submit(job)
    next(job.pieces())
    worker.close()
    assert len(result(job).pieces) == 300
