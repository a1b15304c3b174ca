"""What looks secret is not printed: config values by their keys, and wherever they stand in a text.

They do stand in `run.json`, which workers need; see docs/trust.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from espnet3.specs.models import RunSpec

MASK = "***"
_SHORTEST = 4  # characters of a value that is looked for in texts; "1" would be everywhere
_DEPTH = 100

_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_ANYWHERE = (
    "accesskey",
    "apikey",
    "authorization",
    "credential",
    "encryptionkey",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "secret",
    "signingkey",
    "sshkey",
)
_WHOLE = {"auth", "bearer", "oauth"}
_LAST = "token"  # token_list and token_type are what speech models are made of
_known: set[str] = set()


def is_secret(key: str) -> bool:
    """Whether a key looks as if its value were secret.

    Example:
        >>> [is_secret(key) for key in ("HF_TOKEN", "dbPassword", "aws_access_key_id", "auth")]
        [True, True, True, True]
        >>> [is_secret(key) for key in ("token_list", "max_tokens", "tokenizer", "author", "key")]
        [False, False, False, False, False]
    """
    words = [word.lower() for word in _WORDS.findall(key)]
    together = "".join(words)
    return (
        words[-1:] == [_LAST]
        or not _WHOLE.isdisjoint(words)
        or any(part in together for part in _ANYWHERE)
    )


def masked(value: Any, name: str = "", depth: int = 0) -> Any:
    """A config value as it may be shown.

    Args:
        value: the value, of any kind.
        name: where it stands, dotted.
        depth: how many lists and mappings it stands in.

    Example:
        >>> masked({"user": "me", "login": {"api_key": "abc"}})
        {'user': 'me', 'login': {'api_key': '***'}}
        >>> masked("abc", "config.hub.token")
        '***'
    """
    if value is not None and any(map(is_secret, name.split("."))):
        return MASK
    if depth > _DEPTH:  # also what holds itself
        return "…"
    if isinstance(value, Mapping):
        return {key: masked(part, str(key), depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [masked(part, "", depth + 1) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


_VALUE = r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\;&|])+"""
_ASSIGNED = re.compile(rf"([A-Za-z_][A-Za-z0-9_.-]*)(=)({_VALUE})", re.DOTALL)
_OPTION = re.compile(rf"(--[A-Za-z][A-Za-z0-9_-]*)([ \t]+)(?!-)({_VALUE})", re.DOTALL)


def masked_text(text: str) -> str:
    """A script or command as it may be shown: without the values of secret variables and options.

    Example:
        >>> masked_text("export HF_TOKEN='a b' N=3; login --password x")
        'export HF_TOKEN=*** N=3; login --password ***'
    """

    def replace(found: re.Match[str]) -> str:
        return found[1] + found[2] + MASK if is_secret(found[1]) else found[0]

    return scrubbed(_OPTION.sub(replace, _ASSIGNED.sub(replace, text)))


def remember(value: Any, name: str = "") -> None:
    """From now on `scrubbed` finds the secret values of a config, whoever quotes them."""
    _known.update(text for text in _secrets(value, name, 0) if len(text) >= _SHORTEST)


def scrubbed(text: str) -> str:
    """A text, such as an exception of the user's code, without the secrets that were remembered.

    Example:
        >>> remember({"user": "me", "password": "hunter2"})
        >>> scrubbed("ValueError: cannot log in with ('me', 'hunter2')")
        "ValueError: cannot log in with ('me', '***')"
    """
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def _secrets(value: Any, name: str, depth: int) -> Iterator[str]:
    """All texts and numbers that stand under a secret key, however far below it."""
    below = name if is_secret(name) else ""
    if depth > _DEPTH:
        return
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _secrets(part, below or str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _secrets(part, below, depth + 1)
    elif below and isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def remember_run(run: RunSpec) -> None:
    """Remember the secrets that a run.json holds."""
    remember([argument.value for argument in run.provider.args])
    named = [*run.provider.kwargs.items(), *run.provider.attributes.items()]
    for name, argument in [*named, *((a.name, a.value) for a in run.assignments)]:
        remember(argument.value, name)
    remember(run.environment_variables)
    remember(run.parallel)
