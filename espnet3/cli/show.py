"""What people and programs see: tables on a terminal, plain lines in a pipe, JSON on request."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from espnet3.cli.options import NOT_COMPLETE, WRONG_USAGE
from espnet3.errors import EspnetError, UsageError
from espnet3.redaction import masked_text, scrubbed
from espnet3.text import counted, visible, visible_json, visible_line

if TYPE_CHECKING:
    from espnet3.doctor.diagnosis import Diagnosis, Finding
    from espnet3.submit.launcher import Rendered
    from espnet3.submit.submission import Submitted

ROWS = 20  # of a list on a terminal
JOBS = 3  # that a dry run shows whole; of more than that only the first


def on_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def say(text: str, *, err: bool = False) -> None:
    """Print a text for a person; what a terminal would obey is made visible."""
    click.echo(visible(text), err=err)


def json_text(document: Any, *, indented: bool = False) -> str:
    """A JSON document, in which nothing is left that a terminal obeys either."""
    import orjson

    options = orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indented else 0)
    try:
        text = orjson.dumps(document, option=options).decode()
    except orjson.JSONEncodeError:  # a file name with bytes that are no UTF-8
        import json

        text = json.dumps(document, indent=2 if indented else None)
    return visible_json(text)


def json_document(document: Any) -> None:
    """Print one JSON document."""
    click.echo(json_text(document, indented=on_terminal()))


def lines(pairs: Iterable[tuple[str, str | Sequence[str]]]) -> None:
    """Print names and values: aligned on a terminal, tab-separated in a pipe.

    A value of several lines repeats its name in a pipe, so that each line stands for itself.
    """
    for name, value in pairs:
        for i, line in enumerate([value] if isinstance(value, str) else value):
            if on_terminal():
                name_there = click.style(f"{'' if i else name:<15} ", dim=True)
                click.echo(name_there + visible_line(line))
            else:
                say(f"{name}\t{visible_line(line)}")


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """A sign of life on standard error while something takes its time; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(what, spinner=_spinner(console.encoding)):
        yield


def _spinner(encoding: str) -> str:
    return "dots" if encoding.startswith("utf") else "line"


# --- submissions ----------------------------------------------------------------------------------


def command(*words: str) -> str:
    """An espnet3 command to type."""
    return shlex.join(["espnet3", *words])


def submitted(
    result: Submitted, *, merges: bool = False, steps: Sequence[str] | None = None
) -> None:
    """Print what a submission came to.

    Args:
        result: of the call.
        merges: whether the runner's own `merge` makes the output.
        steps: the commands that help now; where unset, those that follow a submission.
    """
    pairs: list[tuple[str, str | Sequence[str]]] = [("run directory", result.run_dir)]
    if result.number is None:
        pairs.append(("submission", "none, there is nothing to submit"))
    else:
        numbers = [result.number, *result.further]
        pairs.append(("submission", " ".join(f"{number:04d}" for number in numbers)))
        pairs.append(("shards", str(len(result.ranks))))
        pairs.append(("jobs", _shortened(result.job_ids)))
    if result.withdrawn:
        withdrawn = [f"shard {rank}: {why}" for rank, why in sorted(result.withdrawn.items())]
        if on_terminal() and len(withdrawn) > ROWS:
            withdrawn[ROWS:] = [f"and {len(withdrawn) - ROWS} more"]
        pairs.append(("computed again", withdrawn))
    if result.skipped:
        pairs.append(("skipped", result.skipped))
    if n := result.stay_skipped:
        again = command("resume", result.run_dir, "--items", "skipped")
        pairs.append(("stay skipped", f"{counted(n, 'item')}, until `{again}`"))
    if result.not_found:
        told = [f"shard {rank}: {why}" for rank, why in sorted(result.not_found.items())]
        pairs.append(("nothing skipped", told))
    if result.left_alone:
        counts = Counter(why.partition(":")[0] for why in result.left_alone.values())
        pairs.append(("left alone", ", ".join(f"{n} {state}" for state, n in counts.items())))
    if result.results is not None:
        pairs.append(("results", f"{result.results}, once the run has finished itself"))
    steps = _after_submission(result, merges=merges) if steps is None else steps
    pairs.append(("next", steps or [command("status", result.run_dir)]))
    lines(pairs)


def _after_submission(result: Submitted, *, merges: bool) -> list[str]:
    steps = []
    if result.number is not None or set(result.left_alone.values()) != {"done"}:
        steps.append(command("watch", result.run_dir))
    if result.results is None:
        output = [] if merges else ["-o", "results.jsonl"]
        steps.append(command("collect", result.run_dir, *output))
    return steps


def _shortened(words: Sequence[str]) -> str:
    if on_terminal() and len(words) > 10:
        return f"{' '.join(words[:10])} and {len(words) - 10} more"
    return " ".join(words)


def submitted_document(result: Submitted) -> dict[str, Any]:
    """`submit --json` and `resume --json`."""
    return {
        "run_dir": result.run_dir,
        "submission": result.number,
        "further_submissions": result.further,
        "ranks": result.ranks,
        "job_ids": result.job_ids,
        "left_alone": result.left_alone,
        "withdrawn": result.withdrawn,
        "skipped": result.skipped,
        "not_found": result.not_found,
        "stay_skipped": result.stay_skipped,
        "results": result.results,
    }


def rendered(jobs: Sequence[Rendered]) -> None:
    """Print jobs that were not submitted."""
    if not jobs:
        say("# nothing to submit: every shard is done, queued or running")
    finishers = [job for job in jobs if job.when]
    jobs = [job for job in jobs if not job.when]
    shown = jobs if len(jobs) <= JOBS else jobs[:1]
    for number, job in enumerate(shown, 1):
        _rendered(f"job {number} of {len(jobs)}", job)
    if len(jobs) > len(shown):
        say(f"# and {len(jobs) - len(shown)} more jobs like it (--json shows all)")
    for job in finishers:
        _rendered(f"the finisher, which {job.when}", job)


def _rendered(what: str, job: Rendered) -> None:
    say(f"# {what}: the command")
    say(f"{masked_text(shlex.join(job.command))}{' SCRIPT' if job.script else ''}")
    if job.script:
        say(f"# {what.partition(',')[0]}: its SCRIPT")
        say(masked_text(job.script.rstrip("\n")))


def rendered_document(jobs: Sequence[Rendered]) -> dict[str, Any]:
    """`submit --dry-run --json`; `when` is there for a finisher alone."""

    def document(job: Rendered) -> dict[str, Any]:
        command = list(map(masked_text, job.command))
        found: dict[str, Any] = {"script": masked_text(job.script), "command": command}
        return {**found, "when": job.when} if job.when else found

    return {"jobs": [*map(document, jobs)]}


def problem(message: str) -> None:
    """Print one line on standard error."""
    say(f"espnet3: {visible_line(scrubbed(message))}", err=True)


def refused(error: EspnetError, where: str = "") -> int:
    """Print an error in one line on standard error.

    Args:
        error: what was raised.
        where: the run that it is about, for messages that do not name it.

    Returns:
        The exit code that it means.
    """
    words = str(error)
    problem(words if where in words else f"{where}: {words}")
    return WRONG_USAGE if isinstance(error, UsageError) else NOT_COMPLETE


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Show what workers do not take over in one line, without code; other warnings as usual."""
    import warnings

    from espnet3.submit.process_record import NotTakenOver

    usual = warnings.showwarning

    def tell(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, NotTakenOver):
            problem(f"warning: {message}")
        else:
            usual(message, category, *place, **more)

    warnings.showwarning = tell
    try:
        yield
    finally:
        warnings.showwarning = usual


@contextlib.contextmanager
def lines_for(kind: type[Warning]) -> Iterator[None]:
    """Show each warning in one line, and those of a kind whatever the filters say."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always", kind)
        warnings.showwarning = lambda message, *_, **__: problem(str(message))
        yield


# --- doctor ---------------------------------------------------------------------------------------


def left_behind(found: Finding) -> None:
    """Print what the doctor leaves behind where it is cut short; with --json, nothing else is."""
    if found.name == "folder":
        problem(found.value)


def finding(found: Finding) -> None:
    """Print one finding of the doctor."""
    lines([(found.name, found.value if found.fine else f"PROBLEM: {found.value}")])


def diagnosis_document(seen: Diagnosis) -> dict[str, Any]:
    """What the doctor found, for a program."""
    findings = [found._asdict() for found in seen.findings]
    return {"env": seen.env, "fine": seen.fine, "findings": findings, "left": seen.left}
