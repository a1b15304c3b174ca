"""The secrets that a run's records hold, so that nothing shows them."""

from __future__ import annotations

from espnet3.redaction import remember, remember_words
from espnet3.specs.models import RunSpec


def remember_run(run: RunSpec) -> None:
    """Remember the secrets that a run.json holds."""
    remember([argument.value for argument in run.provider.args])
    named = [*run.provider.kwargs.items(), *run.provider.attributes.items()]
    for name, argument in [*named, *((a.name, a.value) for a in run.assignments)]:
        remember(argument.value, name)
    remember(run.environment_variables)
    remember(run.parallel)
    if run.process is not None:
        remember(run.process.environment)
        for words in (run.process.argv, run.process.initial_argv or []):
            remember_words(words)
