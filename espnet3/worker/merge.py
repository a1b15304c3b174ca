"""`python -m espnet3.worker.merge RUN_DIR QUESTION ANSWER ALIVE [TRUST]`: call a runner's `merge`.

QUESTION, ANSWER and ALIVE are descriptors that this process inherits: a file with ranks, and paths
at which their writers saw their folders, as JSON; a file for what `merge` returns or raises,
pickled; and a pipe whose other end is closed when nobody waits any more. `collect` starts it.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import orjson

from espnet3._streams import print_by_line
from espnet3.errors import ClassError, EspnetError, OutputError, WriterFailed
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.reading import read_persisted
from espnet3.run_dir.submissions import newest_submission
from espnet3.run_dir.trust import Trust
from espnet3.specs import layout
from espnet3.specs.models import RunSpec, Submission, WritersSpec
from espnet3.user_code.writers import folder_name, seen_as
from espnet3.worker import exit_codes
from espnet3.worker.attempt import describe
from espnet3.worker.code import enter_code
from espnet3.worker.main import log_to_stderr
from espnet3.worker.one_item import print_traceback
from espnet3.worker.process_restore import restart
from espnet3.worker.rebuild import enter_submitter_process, rebuild, restored_value


def main(argv: list[str]) -> int:
    """Merge, and hand the value back.

    Args:
        argv: see above.

    Returns:
        An exit code of `espnet3.worker.exit_codes`; where it is not 0, the answer is an error.
    """
    root, *numbers = argv[:4]
    question, answer, alive = map(int, numbers)
    trust = cast("Trust | None", argv[4] if len(argv) > 4 else None)
    _end_with(alive)
    log_to_stderr()
    print_by_line()
    code, found = exit_codes.DONE, b""
    try:
        found = _merged(RunDirectory.open(root, trust), question)
    except EspnetError as error:
        code, found = exit_codes.FAILED, pickle.dumps(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    with open(answer, "wb") as file:
        file.write(found)
    return code


def _end_with(pipe: int) -> None:
    """Be told to end, by SIGTERM, when the other end of a pipe is closed."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGTERM)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # it was before
        os.kill(os.getpid(), signal.SIGTERM)


def _merged(directory: RunDirectory, question: int) -> bytes:
    """What `merge` returned, pickled.

    Raises:
        WriterFailed: `merge` raised.
        EspnetError: it cannot be called here.
    """
    newest = newest_submission(directory.store)
    run = directory.trusted_run([newest] if newest else [])
    restart(run)  # whose arguments are these: the question is not read yet
    with open(question, "rb") as file:
        file.seek(0)
        folders = dict(orjson.loads(file.read()))
    submission = None if newest is None else read_persisted(directory.store, Submission, newest)
    run = enter_code(directory, run, submission)
    enter_submitter_process(run)
    runner = _rebuilt(directory, run)
    root = Path(runner.output_dir, runner.shard_subdir)
    places = [root / folder_name(rank) for rank in folders]
    _require_done(runner, places)
    for place, seen in zip(places, folders.values(), strict=True):
        seen_as[str(place)] = [*_renamed(str(place), seen)]
    try:
        value = runner.merge(places)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's code, which may call sys.exit
        print_traceback(error)
        raise WriterFailed("merge", None, describe(error)) from error
    try:
        return pickle.dumps(value, protocol=5)
    except Exception as error:  # pickling runs the user's code
        problem = f"its value cannot be handed to the caller: {describe(error)}"
        raise WriterFailed("merge", None, problem) from error


def _renamed(place: str, seen: Sequence[str]) -> Iterator[tuple[str, str]]:
    """For paths by which writers knew their folder what they are to be, absolute ones first."""
    for path in seen:
        yield os.path.abspath(path), os.path.abspath(place)
        if not os.path.isabs(path):
            yield path, place


def _rebuilt(directory: RunDirectory, run: RunSpec) -> Any:
    """The runner, as it was at the submission; its constructor is not called.

    Raises:
        EspnetError: it cannot be rebuilt here.
    """
    writers = run.writers or WritersSpec(output_dir="")
    cls, provider = rebuild(run)
    held: dict[str, Any] = {
        "provider": provider,
        "batch_size": run.batch_size,
        "async_mode": True,
        "run_dir": directory.root,
        "async_result_dir": os.path.dirname(directory.root),
        "async_specs_dir": Path(directory.root, layout.SHARDS),
        "output_dir": Path(writers.output_dir),
        "shard_subdir": writers.shard_subdir,
        "resume": True,
    }
    for name, argument in writers.attributes.items():
        held[name] = restored_value(argument, f"runner.{name}")
    try:
        runner = cls.__new__(cls)
        for name, value in held.items():
            object.__setattr__(runner, name, value)
    except (AttributeError, TypeError) as error:
        raise ClassError(str(run.runner), f"cannot be made again: {describe(error)}") from error
    return runner


def _require_done(runner: Any, places: Sequence[Path]) -> None:
    """Refuse folders of which the runner itself says that they are not whole.

    Raises:
        OutputError: it says so.
        WriterFailed: it raised.
    """
    for place in places:
        try:
            is_done = type(runner).is_shard_done(place)
        except Exception as error:  # the user's code
            print_traceback(error)
            raise WriterFailed("is_shard_done", None, describe(error)) from error
        if not is_done:
            raise OutputError(str(place), "is not whole, says is_shard_done of the runner")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
