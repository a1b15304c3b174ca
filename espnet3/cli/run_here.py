"""`espnet3 run`: a config file's work here and now, one item after the other, without a run."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import click

from espnet3.cli.completion import FILE
from espnet3.cli.options import DONE, NOT_COMPLETE
from espnet3.cli.sections import Command, Section
from espnet3.cli.streams import require_stdout
from espnet3.text import counted

if TYPE_CHECKING:
    from espnet3.cli.config_file import Request
    from espnet3.errors import EspnetError


_Compute = Callable[[Any], bytes]  # of an item its line


class _Target(Protocol):
    def write(self, data: bytes, /) -> object: ...


@click.command(cls=Command, section=Section.HERE)
@click.argument("config", metavar="CONFIG.yaml", type=FILE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N items.")
@click.option("--item", "word", metavar="X", help="Only this item: its JSON value, or @POSITION.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="A path or URL that ends in .jsonl; exists only once complete.",
)
def run(
    config: str,
    overrides: tuple[str, ...],
    limit: int | None,
    word: str | None,
    output: str | None,
) -> int:
    """Compute items here and now, without a run.

    CONFIG.yaml and KEY=VALUE are those of `submit`. The environment is built in this process, in
    local mode, and breakpoint() works; no run directory is written. Results are JSON lines, the
    same as those of `collect`; what the code prints goes to standard error. A runner that writes
    its results itself writes these items into a new temporary folder, which is named at the end;
    `merge` is not called.
    """
    from espnet3.cli.config_file import import_path, load_request
    from espnet3.cli.show import plain_warnings

    if output == "-":
        output = None
    if output is None:
        require_stdout("name a file with -o FILE")
    else:
        _require_lines(output)
    with plain_warnings(), import_path(config), _results(output) as target:
        request = load_request(config, overrides)
        return _compute(request, _chosen(request, limit, word), target, to_file=output is not None)


def _require_lines(output: str) -> None:
    """Refuse a file whose name promises another form than JSON lines."""
    from espnet3.errors import UsageError
    from espnet3.run_dir.output_names import form_of

    if (form := form_of(output)) != ".jsonl":
        raise UsageError(
            f"{output}: is written in JSON lines here; choose a name that ends in .jsonl "
            f"(`espnet3 collect` writes a run's results to {form})"
        )


@contextlib.contextmanager
def _results(output: str | None) -> Iterator[_Target]:
    """Where the results go. What user code prints is none of them."""
    if output is None and sys.stdout.isatty():  # one screen; a debugger has all of it
        yield sys.stdout.buffer
        return
    with contextlib.redirect_stdout(sys.stderr):
        if output is not None:
            from espnet3.collect.output import open_output

            with open_output(output) as target:
                yield target
            return
        with _only_ours() as stream:
            yield stream


@contextlib.contextmanager
def _only_ours() -> Iterator[BinaryIO]:
    """Standard output, while what native code and children print there goes to standard error."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "wb") as stream:
            yield stream
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _chosen(request: Request, limit: int | None, word: str | None) -> Sequence[Any]:
    """What `forward` is called with."""
    runner, items = request.runner, request.items
    if word is None:
        if limit is not None:
            items = items[:limit] if isinstance(items, range | list) else [
                *itertools.islice(items, limit)
            ]  # fmt: skip
        calls: Sequence[Any] = runner._calls(items)
        return calls
    if limit is not None:
        raise click.UsageError("--limit and --item exclude each other")
    from espnet3.run_dir.item_words import wanted_item

    calls, wanted = runner._calls(items), wanted_item(word)
    position = wanted.position_in(calls)
    if position is None:
        raise wanted.missing("the config file's items", len(calls))
    return calls[position : position + 1]


def _compute(request: Request, calls: Sequence[Any], target: _Target, *, to_file: bool) -> int:
    """Call `forward` for each of the calls; the first that fails is the last, or is recorded."""
    from espnet3.cli.show import problem
    from espnet3.errors import WriterFailed
    from espnet3.parallel.progress_bar import progress_bar
    from espnet3.run_dir.result_lines import encode_error, encode_json, encode_pickle
    from espnet3.text import visible, visible_json
    from espnet3.user_code.instances import its_own_changes
    from espnet3.user_code.references import require_static_forward
    from espnet3.user_code.variables import its_own_work
    from espnet3.worker.attempt import error_record

    runner, parallel = request.runner, request.parallel
    require_static_forward(type(runner))
    encode = encode_json if parallel.results == "json" else encode_pickle
    on_screen = not to_file and sys.stdout.isatty() and sys.stdout is sys.__stdout__
    shown = sys.stderr.isatty() and not on_screen
    failed = 0
    with (
        its_own_changes(runner.provider),
        its_own_work([type(runner), type(runner.provider)]),
        _computing(runner, encode) as compute,
        progress_bar(visible(type(runner).__name__), len(calls), shown=shown) as advance,
    ):
        for item in calls:
            try:
                line = compute(item)
            except (Exception, SystemExit) as error:
                if isinstance(error, WriterFailed):
                    raise
                if parallel.on_error == "stop":
                    raise _failed(item, error) from error
                _show_traceback(error)
                line = encode_error(item, error_record(error))
                failed += 1
            target.write(visible_json(line.decode()).encode() if on_screen else line)
            if not to_file:
                getattr(target, "flush", bool)()
            advance(1)
    if failed:
        recorded = "is recorded as an error" if failed == 1 else "are recorded as errors"
        problem(f"{failed} of {counted(len(calls), 'item')} failed, and {recorded}")
    return NOT_COMPLETE if failed else DONE


@contextlib.contextmanager
def _computing(runner: Any, encode: Callable[[Any, Any], bytes]) -> Iterator[_Compute]:
    """What makes an item's line: `forward`, and the hooks of a runner that has writers."""
    from espnet3.submit.writers import describe_writers

    if (described := describe_writers(runner)) is not None:  # or refused, as at a submission
        with _writing(runner, (described.output_dir, described.shard_subdir), encode) as compute:
            yield compute
        return
    env = _environment(runner.provider)
    # On a copy: what `forward` does to a batch must not get into the line.
    yield lambda item: encode(item, runner.forward(copy.deepcopy(item), **env))


@contextlib.contextmanager
def _writing(
    runner: Any, given: tuple[str, str], encode: Callable[[Any, Any], bytes]
) -> Iterator[_Compute]:
    """What has an item written, into a folder that stays; its line is for people to look at."""
    import tempfile
    from pathlib import Path

    from espnet3.cli.show import problem
    from espnet3.errors import UnserializableResult, WriterFailed
    from espnet3.user_code.writers import ShardWriters, folder_name
    from espnet3.worker.trial import tried

    env = _environment(runner.provider)
    folder = Path(tempfile.mkdtemp(prefix="espnet3-run-"), folder_name(0))
    folder.mkdir()
    writers = ShardWriters(type(runner), 0, folder, *given, env)
    of_forward = writers.forward_env(env)

    def compute(item: Any) -> bytes:
        result = runner.forward(copy.deepcopy(item), **of_forward)
        write(item, result)
        try:
            return encode(item, result)
        except UnserializableResult:  # writers take any
            return encode(item, None)

    try:
        with tried(writers) as write:
            yield compute
    except WriterFailed as error:
        _show_traceback(error.__cause__ or error)
        raise
    finally:
        problem(f"the runner has written to {folder}")


def _environment(provider: Any) -> dict[str, Any]:
    from espnet3.errors import EnvironmentFailed
    from espnet3.worker.attempt import describe

    try:
        env: dict[str, Any] = provider.build_env_local()
    except (Exception, SystemExit) as error:
        _show_traceback(error)
        name = type(provider).__name__
        raise EnvironmentFailed(
            f"{name} failed to build the environment: {describe(error)}"
        ) from error
    return env


def _failed(item: Any, error: BaseException) -> EspnetError:
    """The error of an item as ours, once the user's traceback is shown."""
    from espnet3.errors import EspnetError, ForwardFailed
    from espnet3.worker.attempt import describe

    if isinstance(error, EspnetError):
        return error
    _show_traceback(error)
    return ForwardFailed(item, describe(error))


def _show_traceback(error: BaseException) -> None:
    """The user's frames, without those of this command."""
    from espnet3.cli.show import say
    from espnet3.redaction import scrubbed

    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    say(scrubbed(text).rstrip("\n"), err=True)
