"""`AsyncRun` beside `Run`, on real detached processes: the same answers, in a loop that goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from espnet3 import AsyncRun, IncompleteRun
from tests.support.helpers import locally, parallel, submit_noting
from tests.support.runners import GATE, MENDED


async def test_the_methods_of_a_run_awaited(tmp_path: Path) -> None:
    config = parallel("local", n_workers=2, n_shards=3)
    # Also a blocking call is fine where a loop runs.
    blocking = submit_noting(tmp_path, 6, config, failing=[4])
    run = AsyncRun(blocking.run_dir, blocking.submitted)
    assert str(run) == f"Async{blocking}"
    seen = await run.wait(timeout=120, interval=0.2)
    assert seen.counts() == (await run.status()).counts() == {"done": 2, "failed": 1}
    with pytest.raises(IncompleteRun):
        await run.collect()
    (tmp_path / MENDED).touch()
    assert (await run.resume()).ranks == [2]
    assert run.submitted is not None
    assert run.submitted.number == 2
    assert (await run.wait(timeout=120, interval=0.2)).sound
    assert await run.collect() == blocking.collect() == locally(tmp_path, 6)
    assert (await run.collect(tmp_path / "out.jsonl")).records == 6
    assert [record async for record in run.stream()] == list(blocking.stream())
    assert await run.logs(2) == blocking.logs(2)
    assert await run.cancel() == []


async def test_the_loop_goes_on_while_a_run_is_awaited(tmp_path: Path) -> None:
    blocking = submit_noting(tmp_path, 1, parallel("local", n_shards=1), gated=[0])
    run = AsyncRun(blocking.run_dir)
    try:
        waiting = asyncio.create_task(run.wait(interval=0.1))
        assert (await run.status()).live
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(TimeoutError):
            await run.wait(timeout=0.1)
    finally:
        (tmp_path / GATE).touch()
    assert (await run.wait(timeout=120, interval=0.1)).done
