"""What a finisher does: look, then collect, or submit what is missing again, or say why not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import sys
import time
from functools import partial
from typing import NamedTuple

from espnet3.config.finish import Finish
from espnet3.config.model import parse_parallel
from espnet3.errors import (
    ClassError,
    CodeChanged,
    ConfigError,
    FileTaken,
    SchedulerUnavailable,
    SubmissionRefused,
)
from espnet3.finish.ending import bring_to_end
from espnet3.finish.evidence import before, done_on, missing_shards, why_stopped
from espnet3.finish.notice import notify
from espnet3.finish.rules import End, Policy, decide
from espnet3.finish.waves import queue_after, submit_wave, to_submit, wave_of
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import Ending, read_ending
from espnet3.run_dir.submissions import newest_submission
from espnet3.specs import layout
from espnet3.specs.finishing import Finished, Finisher, Wave
from espnet3.specs.models import RunSpec, Submission
from espnet3.status.finishing import find_finisher, in_words, words_of
from espnet3.status.item_progress import ItemProgress
from espnet3.status.observation import Observation, observe
from espnet3.status.run_status import LIVE
from espnet3.submit.code import known_code
from espnet3.submit.finishers import jobs_alive, most_memory, most_seconds
from espnet3.submit.resumption import believed_now
from espnet3.submit.run_groups import last_config
from espnet3.submit.submission import Overtaken
from espnet3.text import plural

log = logging.getLogger("espnet3.finish")
_PAUSES = 0.5, 10.0  # seconds between two looks, at first and at most
_AFTER_REFUSAL = 60.0  # seconds in which a queue may become shorter


class Waits(NamedTuple):
    """How long a finisher waits, in seconds.

    Attributes:
        live: for what still lives, before another finisher is queued behind it; None for ever, so
            that none is queued behind waves either.
        scheduler: for the scheduler's answer, before it gives up.
    """

    live: float | None = 300.0
    scheduler: float = 300.0


WAITS = Waits()


async def finish(
    directory: RunDirectory, run: RunSpec, finisher: Finisher, waits: Waits = WAITS
) -> Finished | None:
    """Do what a finisher is for.

    Args:
        directory: the run directory.
        run: its run.json.
        finisher: which one this is.
        waits: how long it waits.

    Returns:
        The run's end; None where another finisher will see to it.

    Raises:
        UsageError, FileMissing: the directory holds another run by now, or was removed.
        EspnetError: the storage failed; started again, it goes on from there.
    """
    me = _Finisher(directory, run, finisher, waits)
    while True:
        ending = await asyncio.to_thread(me.read)
        if ending.end is not None and ending.end.number >= finisher.end:
            return await me.tell(ending.end)
        if finisher.up_front:
            return await me.decide_only(ending)
        if (other := await me.successor(ending)) is not None:
            log.info("left to finisher %d", other)
            return None
        seen = await me.observe()
        if seen is None:
            return await me.end_unseen(ending)
        try:
            if LIVE.isdisjoint(seen.status.shards.states):
                step = await me.step(seen, ending)
            else:
                step = await me.leaves_to_another(seen, ending)
        except (ConfigError, ClassError) as error:  # what can be submitted there cannot be here
            step = await me.stop(seen, error, ending)
        if isinstance(step, Finished):
            return await me.tell(step)
        if step:
            return None


def _require_same_code(seen: Observation) -> None:
    """Refuse to go on with other source files than those that were submitted.

    Raises:
        CodeChanged: they were edited since, and nobody kept them.
    """
    record = seen.directory.code(seen.last)
    if record is not None and not record.snapshot:
        again = f"espnet3 resume {shlex.quote(seen.directory.root)}"
        known_code(seen.directory, seen.last, None, again=again)


class _Finisher:
    """One of them, at work."""

    def __init__(
        self, directory: RunDirectory, run: RunSpec, finisher: Finisher, waits: Waits
    ) -> None:
        self._directory, self._run, self._finisher = directory, run, finisher
        self._waits, self._items = waits, ItemProgress()
        self._pause = _PAUSES[0]
        self._alive_since: float | None = None
        self._unanswered_since: float | None = None
        self._unsubmitted_since: float | None = None  # no submit command was answered
        self._last: Observation | None = None  # where the scheduler did not answer

    def read(self) -> Ending:
        self._directory.require_run(self._run.run_id)
        found = read_ending(believed_now(self._directory))
        return found or Ending([], [], None)

    async def successor(self, ending: Ending) -> int | None:
        """A finisher that comes after this one, and is queued; None where there is none.

        Who queued it may have died before it could record the job, which has a name of its own.
        """
        for known in reversed(ending.finishers):
            number = known.finisher.number
            if number <= self._finisher.number:
                return None
            if known.job_id is not None:
                return number
            if known.queued is None:
                found = await find_finisher(known.finisher)  # two of them do no harm
                if found is not None:
                    await asyncio.to_thread(self._directory.publish_first, found)
                    return number
        return None

    async def observe(self) -> Observation | None:
        """What is seen of the run, once the scheduler answers; None where it does not."""
        while True:
            opened = partial(believed_now, self._directory)
            seen = await observe(opened, items=self._items)
            problem = seen.status.scheduler_problem
            if problem is None:
                self._unanswered_since = None
                return seen
            began = self._unanswered_since = self._unanswered_since or time.monotonic()
            if time.monotonic() - began >= self._waits.scheduler:
                self._last = seen
                return None
            log.warning("%s; asked again", problem)
            await self._sleep()

    async def leaves_to_another(self, seen: Observation, ending: Ending) -> Finished | bool:
        """Wait a moment for what lives; where it takes long, another one waits for it.

        Returns:
            As `step`.
        """
        ids = jobs_alive(seen)
        if self._alive_since is None:
            self._alive_since = time.monotonic()
            log.info("still live: %s %s", plural(len(ids), "job"), ", ".join(ids))
        waits = self._waits.live
        if waits is None or time.monotonic() - self._alive_since < waits:
            await self._sleep()
            return False
        log.info("another finisher waits for them")
        return await self._hand_over(seen, ids, self._finisher.submission, ending)

    async def _hand_over(
        self, seen: Observation, ids: list[str], submission: int, ending: Ending
    ) -> Finished | bool:
        """Queue another finisher behind jobs; without one, somebody has to be told.

        Returns:
            True; the run's end where none can be queued.
        """
        began = time.monotonic()
        while True:
            try:
                await queue_after(seen, ids, submission)
            except (SchedulerUnavailable, SubmissionRefused) as error:
                if time.monotonic() - began >= self._waits.scheduler:
                    jobs = f"{plural(len(ids), 'job')} {', '.join(ids)}"
                    words = f"{jobs} still live, with no finisher behind: {error}"
                    end = End("stopped", words, self._left(seen))
                    return await self._end(seen, end, ending)
                log.warning("%s; tried again", error)
                await self._sleep()
            else:
                return True

    async def _sleep(self) -> None:
        await asyncio.sleep(self._pause)
        self._pause = min(1.5 * self._pause, _PAUSES[1])

    def _config(self, seen: Observation) -> Finish:
        return last_config(seen).finish or Finish()

    async def step(self, seen: Observation, ending: Ending) -> Finished | bool:
        """Decide and do what comes next, nothing of the run being alive.

        Returns:
            The run's end; True where another finisher was queued; False to look again.
        """
        self._alive_since = None
        wave = ending.waves[-1] if ending.waves else None
        unanswered = self._unsubmitted_since is not None
        stopped = why_stopped(seen, ending)  # also since the wave was decided
        if wave is None or stopped or not to_submit(seen, wave, again=unanswered):
            decided = await asyncio.to_thread(self._decide, seen, ending)
            if isinstance(decided, End):
                return await self._end(seen, decided, ending)
            wave = decided
            try:
                await asyncio.to_thread(self._publish, wave)
            except FileTaken:  # another finisher decided, which may be seen later
                await self._sleep()
                return False
        try:
            await asyncio.to_thread(_require_same_code, seen)
        except CodeChanged as error:
            return await self.stop(seen, error, ending)
        log.info("%s", words_of(wave))
        try:
            submitted = await submit_wave(seen, wave, again=unanswered)
        except Overtaken:
            return False
        except SubmissionRefused as error:
            log.error("%s", error)  # the shards are `refused` from now on
            await asyncio.sleep(_AFTER_REFUSAL)
            return False
        except SchedulerUnavailable as error:
            began = self._unsubmitted_since = self._unsubmitted_since or time.monotonic()
            if time.monotonic() - began >= self._waits.scheduler:
                return await self.stop(seen, error, ending)
            log.warning("%s; tried again", error)  # as where it does not answer questions
            await self._sleep()
            return False
        self._unsubmitted_since, self._pause = None, _PAUSES[0]
        if self._waits.live is None:
            return False  # this process stays
        numbers = [submitted.number or 0, *submitted.further]
        newest = max([*numbers, self._finisher.submission])
        return await self._hand_over(seen, submitted.job_ids, newest, ending)

    async def decide_only(self, ending: Ending) -> Finished | None:
        """Write down what the next wave is to do, which waits for this; or that the run is over."""
        number = self._finisher.wave
        if any(wave.number == number for wave in ending.waves):
            return None
        opened = partial(believed_now, self._directory)
        seen = await observe(opened, items=self._items, until_wave=number or sys.maxsize)
        decided = await asyncio.to_thread(self._decide, seen, ending)
        if isinstance(decided, Wave) and not number:
            left = await asyncio.to_thread(self._left, seen)
            decided = End("incomplete", "all waves that were queued are spent", left)
        if isinstance(decided, End):
            return await self.tell(await self._end(seen, decided, ending))
        wave = decided.model_copy(update={"number": number})
        with contextlib.suppress(FileTaken):
            await asyncio.to_thread(self._publish, wave)
        log.info("%s", words_of(wave))
        return None

    def _publish(self, wave: Wave) -> None:
        self._directory.store.prepare([layout.WAVES])
        self._directory.publish(wave)

    def _decide(self, seen: Observation, ending: Ending) -> End | Wave:
        finish = self._config(seen)
        policy = Policy(
            waves=finish.waves,
            max_memory=most_memory(finish),
            max_walltime=most_seconds(finish, self._finisher.scheduler),
            retry_errors=finish.retry_errors,
            max_attempts=finish.max_attempts,
        )
        missing = missing_shards(seen, ending.waves)
        items_done = sum(shard.items_done for shard in missing)
        decided = decide(
            missing,
            len(seen.receipts),
            policy,
            before(ending.waves, len(seen.receipts), items_done),
            done_on(self._directory, self._run, seen, missing),
            why_stopped(seen, ending),
        )
        if isinstance(decided, End):
            return decided
        return wave_of(decided, seen, self._finisher, ending.next_wave, items_done)

    def _left(self, seen: Observation) -> dict[int, str]:
        return {shard.rank: shard.words for shard in seen.status.not_done()}

    async def end_unseen(self, ending: Ending) -> Finished:
        """The end of a run of which the scheduler tells nothing."""
        seen = self._last or await observe(self._directory, ask_scheduler=False)
        left = await asyncio.to_thread(self._left, seen)
        words = f"nobody knows what still runs: {seen.status.scheduler_problem}"
        return await self.tell(await self._end(seen, End("stopped", words, left), ending))

    async def stop(self, seen: Observation, why: Exception, ending: Ending) -> Finished:
        """End the run, since nothing can be submitted."""
        return await self._end(seen, End("stopped", str(why), self._left(seen)), ending)

    async def _end(self, seen: Observation, end: End, ending: Ending) -> Finished:
        number = 1 if ending.end is None else ending.end.number + 1
        return await bring_to_end(
            seen, end, self._config(seen), ending.waves, self._finisher.number, number
        )

    async def tell(self, end: Finished) -> Finished:
        """Say that it is over, and run the user's command."""
        log.info("%s", in_words(end))
        command = await asyncio.to_thread(self._command)
        folder = self._run.working_directory
        await notify(self._directory, end, command, self._finisher.number, folder)
        return end

    def _command(self) -> str | None:
        """What the user wants to be run, by the newest submission: not all of the run is needed."""
        path = newest_submission(self._directory.store)
        given: RunSpec | Submission = self._run
        if path is not None:
            self._directory.store.await_file(path)
            given = self._directory.read(Submission, path)
        return (parse_parallel(given.parallel).finish or Finish()).notify
