"""From the records of a run directory to what a report needs of them."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Iterator, Mapping
from typing import Any

from espnet3.errors import EspnetError
from espnet3.redaction import masked, masked_text, remember
from espnet3.report.asked import asked_of
from espnet3.report.attempts import Attempts, as_json, read_attempts, worker_name
from espnet3.report.model import Facts, Failure, Row, Sign, Unfinished
from espnet3.run_dir.secrets import remember_run
from espnet3.specs import layout
from espnet3.specs.models import Argument, CodeRecord, Receipt, RunSpec, Submission
from espnet3.status.finishing import words_of
from espnet3.status.observation import Observation
from espnet3.status.worker_signs import WorkerSign, worker_signs
from espnet3.storage.concurrency import gather
from espnet3.text import counted, cut

_READERS = 8  # threads; network file systems and object stores take their time
_MOST_FAILED = 1000  # recorded items whose exceptions are read
_MOST_RESULTS = 64 << 20  # bytes of results that are searched for them
_MOST_CONFIG, _MOST_COMMAND, _MOST_FILES = 16_000, 4000, 40


def read_facts(seen: Observation) -> Facts:
    """All that a report says, by the records of a run that was looked at just now.

    Records that cannot be read are counted, and nothing else is made of them.

    Args:
        seen: the run, as it was observed.
    """
    directory, run = seen.directory, seen.run
    _remember(run, [known.submission for known in seen.submissions])
    receipts = _receipts(seen)
    signs = _signs(seen)
    found = read_attempts(seen, receipts, signs)
    recorded = sum(receipt.errors for receipt in receipts.values())
    failures = [*found.failures, *(_recorded_failures(seen, receipts) if recorded else ())]
    return Facts(
        run_dir=directory.root,
        runner=str(run.runner),
        n_items=run.n_items,
        n_shards=run.world_size,
        created=run.created.timestamp(),
        states=seen.status.counts(),
        live=seen.status.live,
        looked=time.time() if seen.status.live else None,
        failed_items=recorded,
        failures=tuple(failures),
        unfinished=tuple(
            Unfinished(shard.rank, shard.state, shard.kind, shard.cause)
            for shard in seen.status.not_done()
        ),
        submissions=tuple(
            asked_of(known, seen.cancelled.get(known.submission.number))
            for known in seen.submissions
        ),
        attempts=found.attempts,
        done=tuple(
            (rank, receipt.created.timestamp(), receipt.records)
            for rank, receipt in sorted(receipts.items())
        ),
        signs=tuple(map(_as_sign, signs)),
        waves=_waves(seen),
        what=tuple(_what(seen)),
        config=cut(json.dumps(_config(run), indent=2, ensure_ascii=False), _MOST_CONFIG),
        code=tuple(_code(_code_record(seen))),
        problems=tuple(_problems(seen, receipts, found)),
    )


def _remember(run: RunSpec, submissions: list[Submission]) -> None:
    """Remember all secrets that the records hold, so that none stands in the page."""
    remember_run(run)
    for submission in submissions:
        remember(submission.parallel)
        remember(submission.options)


def _receipts(seen: Observation) -> dict[int, Receipt]:
    """Rank -> its receipt, of those that can be read."""

    def read(of: tuple[int, int]) -> Receipt | None:
        try:
            return seen.directory.receipt(seen.run, *of)
        except EspnetError:  # counted as a problem
            return None

    found = gather(read, sorted(seen.receipts.items()), _READERS)
    return {receipt.rank: receipt for receipt in found if receipt is not None}


def _recorded_failures(seen: Observation, receipts: Mapping[int, Receipt]) -> Iterator[Failure]:
    """The exceptions of items that failed and were recorded; of many, the first ones."""
    store = seen.directory.store
    left, most = _MOST_RESULTS, _MOST_FAILED
    for rank, receipt in receipts.items():
        if not receipt.errors:
            continue
        for part in receipt.parts:
            if left <= 0 or most <= 0:
                return
            left -= part.bytes
            with (
                contextlib.suppress(EspnetError, OSError),
                store.open(f"{layout.RESULTS}/{part.file}") as f,
            ):
                data = f.read(min(part.bytes, _MOST_RESULTS))
                for line in data.splitlines():
                    failure = _as_failure(line, rank, receipt.host) if b'"error"' in line else None
                    if failure is not None and most > 0:
                        most -= 1
                        yield failure


def _as_failure(line: bytes, rank: int, host: str) -> Failure | None:
    import orjson

    try:
        record = orjson.loads(line)
        error = record["error"]
        words = {name: str(error[name]) for name in ("type", "message")}
        trace = str(error.get("traceback", ""))
    except (ValueError, KeyError, TypeError, AttributeError):  # a result that holds the word
        return None
    return Failure(
        rank, **words, traceback=trace, item=as_json(record.get("item")), host=host, recorded=True
    )


def _signs(seen: Observation) -> list[WorkerSign]:
    with contextlib.suppress(EspnetError):  # a hint only
        return worker_signs(seen.directory.root)
    return []


def _as_sign(sign: WorkerSign) -> Sign:
    return Sign(
        worker_name(sign.submission, sign.task, sign.worker),
        sign.submission,
        sign.started.timestamp(),
        sign.last_sign.timestamp(),
    )


def _waves(seen: Observation) -> tuple[str, ...]:
    waves = [] if seen.ending is None else [words_of(wave) for wave in seen.ending.all_waves]
    finishing = seen.status.finishing
    return (*waves, *(() if finishing is None else (finishing.words,)))


def _what(seen: Observation) -> Iterator[tuple[str, str]]:
    """What ran, as names and values."""
    run = seen.run
    yield "run directory", seen.directory.root
    yield "run", run.run_id
    yield "runner", str(run.runner)
    yield "provider", str(run.provider.cls)
    typed = seen.submissions[0].submission.typed if seen.submissions else ""
    if typed:
        yield "command", cut(masked_text(typed), _MOST_COMMAND)
    elif run.process is not None:  # before that was noted
        words = [run.python, *(run.process.initial_argv or run.process.argv)]
        yield "command", cut(masked_text(shlex.join(words)), _MOST_COMMAND)
    yield "working directory", run.working_directory
    if seen.submissions:
        submitter = seen.submissions[0].submission.submitter
        yield "submitted by", f"{submitter.user} on {submitter.host}"
    batch = f", in lists of {run.batch_size}" if run.batch_size is not None else ""
    yield "items", f"{run.n_inputs:,}{batch}, in {counted(run.world_size, 'shard', ',')}"
    yield "on_error", run.on_error
    yield "results", run.results
    yield "versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())
    record = _code_record(seen)
    commit = run.git_commit if record is None else record.git_commit or run.git_commit
    if commit:
        yield "git commit", commit
    if record is not None:
        kept = ", with a snapshot" if record.snapshot else ""
        yield "source files", f"{len(record.files)} below {' '.join(record.roots)}{kept}"


def _code_record(seen: Observation) -> CodeRecord | None:
    with contextlib.suppress(EspnetError):
        return seen.directory.code(seen.last)
    return None


def _code(record: CodeRecord | None) -> Iterator[Row]:
    files = () if record is None else record.files
    for file in files[:_MOST_FILES]:
        yield file.name, f"{file.size:,}", file.sha256.removeprefix("sha256:")[:12]
    if len(files) > _MOST_FILES:
        yield f"and {len(files) - _MOST_FILES} more", "", ""


def _config(run: RunSpec) -> dict[str, Any]:
    """What the provider was made with, and the parallel config; nothing secret."""
    provider = run.provider

    def shown(argument: Argument, name: str = "") -> Any:
        return masked(argument.value, name)

    return {
        "provider": {
            "args": [shown(argument) for argument in provider.args],
            **{name: shown(argument, name) for name, argument in provider.kwargs.items()},
        },
        "parallel": masked(run.parallel),
    }


def _problems(seen: Observation, receipts: Mapping[int, Receipt], found: Attempts) -> Iterator[str]:
    if seen.status.scheduler_problem:
        yield seen.status.scheduler_problem
    if missing := len(seen.receipts) - len(receipts):
        again = f"`espnet3 resume --repair` computes {'it' if missing == 1 else 'them'} again"
        yield f"{counted(missing, 'receipt')} cannot be read; {again}"
    if found.unreadable:
        yield f"{counted(found.unreadable, 'record')} of attempts cannot be read"
    if found.unmeasured:
        yield (
            f"what {found.unmeasured} of {counted(len(found.attempts), 'attempt')} took is not "
            "known: still running, ended without a word, or of an older espnet3"
        )
