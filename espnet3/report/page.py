"""The page: what was computed, in words, tables and figures, as one HTML document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from espnet3.redaction import scrubbed
from espnet3.report.advice import advice
from espnet3.report.efficiency import efficiency
from espnet3.report.failures import MOST_GROUPS, causes, groups
from espnet3.report.figures import (
    Figure,
    efficiency_figure,
    items_figure,
    memory_figures,
    second_figures,
    timeline_figure,
)
from espnet3.report.model import Facts, Row
from espnet3.report.words import NOTHING, count, duration, hours, moment, share, size
from espnet3.report.workers import Worker, lived, workers_of
from espnet3.status.run_status import STATES
from espnet3.text import cut, visible

_MOST_SUBMISSIONS = 50  # rows
_MOST_LINES = 50  # of waves and problems
_MOST_CAUSES = 20
_NEARLY = 0.99  # of the time: pauses that are shorter are not worth a word
_MOST_NAME = 500  # bytes


@dataclass(frozen=True, slots=True)
class Tile:
    """One number that says how the run went."""

    name: str
    value: str
    more: str = ""


def page(facts: Facts) -> bytes:
    """The document, in UTF-8; the same for the same facts.

    Args:
        facts: all that is known of the run.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("espnet3.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.j2").render(_content(facts))
    return text.encode("utf-8", "backslashreplace")


def _shown(value: Any) -> Any:
    """Of every text: nothing that is secret, or that a reader's screen would obey."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return visible(scrubbed(value))
    return value


def _content(facts: Facts) -> dict[str, Any]:
    workers = workers_of(facts)
    spent = efficiency(facts, workers)
    failures, unfinished = groups(facts), causes(facts)
    figures: dict[str, Sequence[Figure]] = {
        "when": [timeline_figure(workers), items_figure(facts, workers)] if workers else [],
        "seconds": [*second_figures(facts)],
        "memory": [*memory_figures(facts)],
        "efficiency": [efficiency_figure(spent)] if spent.allocated else [],
    }
    return {
        "facts": facts,
        "name": cut(facts.run_dir.rstrip("/").rpartition("/")[2] or facts.run_dir, _MOST_NAME),
        "headline": _headline(facts),
        "as_of": moment(facts.latest()),
        "tiles": _tiles(facts, workers, spent.useful),
        "submissions": _submissions(facts),
        "typed": _typed(facts),
        "waves": _first(facts.waves),
        "problems": _first(facts.problems),
        "figures": figures,
        "advice": advice(facts),
        "spent": spent,
        "waiting": (
            f"Until their first sign workers waited {hours(spent.waited)} h all together, "
            f"{duration(spent.usual_wait)} each in the median. Nothing was allocated then."
        ),
        "share": share,
        "size": size,
        "count": count,
        "failures": failures[:MOST_GROUPS],
        "more_failures": len(failures) - MOST_GROUPS,
        "causes": unfinished[:_MOST_CAUSES],
        "gpus": any(asked.gpus for asked in facts.submissions),
    }


def _headline(facts: Facts) -> str:
    """How far it has come, in one line."""
    words = [f"{facts.states.get('done', 0):,} of {count(facts.n_shards, 'shard')} done"]
    words += [f"{facts.states[s]:,} {s}" for s in STATES if s != "done" and s in facts.states]
    if facts.failed_items:
        words.append(f"{facts.failed_items:,} of {count(facts.n_items, 'item')} failed")
    return ", ".join(words)


def _tiles(facts: Facts, workers: Sequence[Worker], useful: float | None) -> list[Tile]:
    done = sum(records for _, _, records in facts.done)
    found = [Tile("items in done shards", f"{done:,}", f"of {facts.n_items:,}")]
    if workers:
        seconds = max(w.end for w in workers) - min(w.start for w in workers)
        found.append(
            Tile("from first to last sign", duration(seconds), count(len(workers), "worker"))
        )
        if done and (at_work := lived(workers)):
            more = "" if at_work > _NEARLY * seconds else f"in the {duration(at_work)} with workers"
            found.append(Tile("items a second", f"{done / at_work:,.3g}", more))
    if useful is not None:
        found.append(Tile("of the core hours useful", share(useful)))
    peak = max((a.peak_memory for a in facts.attempts if a.peak_memory), default=None)
    if peak is not None:
        asked = [own.memory for own in facts.submissions if own.memory is not None]
        found.append(
            Tile(
                "memory at most",
                size(peak),
                f"{size(asked[-1])} asked for" if asked else "no limit",
            )
        )
    return found


def _submissions(facts: Facts) -> list[Row]:
    """A row for each submission; of many, the first and the last ones."""
    own = list(facts.submissions)
    if len(own) > _MOST_SUBMISSIONS:
        own = [*own[: _MOST_SUBMISSIONS // 2], *own[-_MOST_SUBMISSIONS // 2 :]]
    return [
        (
            f"{asked.number:04d}",
            moment(asked.created),
            f"{asked.scheduler}, {asked.schedule}",
            f"{asked.n_shards:,}",
            f"{asked.n_tasks:,}",
            f"{asked.cores:g}",
            f"{asked.gpus}",
            NOTHING if asked.memory is None else size(asked.memory),
            _jobs(asked.jobs),
            asked.remark,
        )
        for asked in own
    ]


def _typed(facts: Facts) -> list[str]:
    """A line for each submission that says by which command it was made."""
    return _first([f"{own.number:04d}  {own.typed}" for own in facts.submissions if own.typed])


def _jobs(ids: Sequence[str]) -> str:
    shown = " ".join(ids[:3])
    return f"{shown} and {len(ids) - 3} more" if len(ids) > 3 else shown


def _first(lines: Sequence[str]) -> list[str]:
    more = [f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return [*lines[:_MOST_LINES], *more]
