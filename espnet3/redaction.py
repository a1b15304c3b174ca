"""What looks secret is not printed: config values by their keys, and wherever they stand in a text.

They do stand in `run.json`, which workers need; see docs/trust.md.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from espnet3.text import one_line

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
# The tokens of language models and tokenizers, by what stands before `_token`.
_SPECIAL = frozenset(
    (
        "additional", "begin", "blank", "bos", "boundary", "cls", "decoder", "delimiter", "end",
        "eos", "eot", "forced", "lang", "language", "mask", "newline", "noise", "oov", "pad",
        "padding", "sep", "separator", "sil", "silence", "sos", "space", "special", "start",
        "timestamp", "unk", "unknown",
    )
)  # fmt: skip
# Patterns that most processes have no use for are compiled when first used, and kept by `re`.
_SHAPED = r"<[^<>]*>|\[[^\[\]]*\]|\W*"  # <unk>, </s>, [CLS], punctuation
# Of one case and without digits, as the names of things are and keys made at random are not.
_PLAIN = r"(?:[A-Z]?[a-z]{1,15}|[A-Z]{1,15})(?:[_-](?:[a-z]{1,15}|[A-Z]{1,15})){0,3}"
_SHORT_NUMBER = r"-?[0-9]{1,6}"
_known: set[str] = set()


def is_secret(key: str) -> bool:
    """Whether a key looks as if its value were secret.

    Example:
        >>> [is_secret(key) for key in ("HF_TOKEN", "dbPassword", "aws_access_key_id", "auth")]
        [True, True, True, True]
        >>> [is_secret(key) for key in ("token_list", "max_tokens", "tokenizer", "author", "key")]
        [False, False, False, False, False]
        >>> [is_secret(key) for key in ("unk_token", "forcedBosToken", "hub_token")]
        [False, False, True]
    """
    words = [word.lower() for word in _WORDS.findall(key)]
    together = "".join(words)
    return (
        (words[-1:] == [_LAST] and _SPECIAL.isdisjoint(words))
        or not _WHOLE.isdisjoint(words)
        or any(part in together for part in _ANYWHERE)
    )


def _hides(key: str, value: Any) -> bool:
    """Whether a value is secret where it stands under that key.

    A key that ends in `token` may name a kind of token or one of a tokenizer's instead: then its
    value is an ordinary word, a short number or has the shape of a special token.
    """
    if not is_secret(key):
        return False
    words = [word.lower() for word in _WORDS.findall(key)]
    if words[-1:] != [_LAST] or not isinstance(value, str | int | float):
        return True
    text = str(value)
    plain = re.fullmatch(_PLAIN, text) or re.fullmatch(_SHORT_NUMBER, text)
    return not (re.fullmatch(_SHAPED, text) or (key == _LAST and plain))


def masked(value: Any, name: str = "", depth: int = 0) -> Any:
    """A config value as it may be shown.

    Args:
        value: the value, of any kind.
        name: where it stands, dotted.
        depth: how many lists and mappings it stands in.

    Example:
        >>> masked({"user": "me", "login": {"api_key": "abc"}})
        {'user': 'me', 'login': {'api_key': '***'}}
        >>> masked("hf_8ZqX", "config.hub.token")
        '***'
        >>> masked({"token": "char", "unk_token": "<unk>"})
        {'token': 'char', 'unk_token': '<unk>'}
    """
    if value is not None and any(_hides(part, value) for part in name.split(".")):
        return MASK
    if depth > _DEPTH:  # also what holds itself
        return "…"
    if isinstance(value, Mapping):
        return {key: masked(part, str(key), depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [masked(part, "", depth + 1) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    return value


def shown_value(value: Any, name: str = "") -> str:
    """A value in a message: masked, on one line of at most 60 characters.

    Args:
        value: the value, of any kind.
        name: where it stands, dotted.

    Example:
        >>> shown_value({"beam": 5}), shown_value("hf_8ZqX", "config.hub.token")
        ("{'beam': 5}", "'***'")
    """
    return one_line(repr(masked(value, name)), 60)


_VALUE = r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\;&|])+"""
# A key is looked for once where it begins: a long word is not a key at any of its letters.
_ASSIGNED = rf"(?s)(?<![A-Za-z0-9_.-])([A-Za-z0-9_.-]++)(=)({_VALUE})"
_OPTION = rf"(?s)(?<![A-Za-z0-9_-])(--[A-Za-z0-9_-]++)([ \t]++)(?!-)({_VALUE})"


def masked_text(text: str) -> str:
    """A script or command as it may be shown: without the values of secret variables and options.

    Example:
        >>> masked_text("export HF_TOKEN='a b' N=3; login --password x")
        'export HF_TOKEN=*** N=3; login --password ***'
    """

    def replace(found: re.Match[str]) -> str:
        hidden = _hides(found[1].lstrip("-"), found[3].strip("'\""))
        return found[1] + found[2] + MASK if hidden else found[0]

    return scrubbed(re.sub(_OPTION, replace, re.sub(_ASSIGNED, replace, text)))


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
        if re.fullmatch(_PLAIN, secret) or re.fullmatch(_SHORT_NUMBER, secret):
            # In the middle of other words it says nothing, and they would say nothing any more.
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
        else:
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
    elif (
        isinstance(value, str | int | float)
        and not isinstance(value, bool)
        and _hides(below, value)
        and not _is_common(str(value))
    ):
        yield str(value)


def _is_common(text: str) -> bool:
    """Whether a value stands in many texts: what YAML and Python call nothing, true and false."""
    return text.strip().lower() in ("", "none", "null", "true", "false", "auto", "default")


_GIVEN = r"(?s)-{0,2}([A-Za-z_][A-Za-z0-9_.-]*)=(.*)"  # compiled where there are words


def remember_words(words: Sequence[str]) -> None:
    """Remember the secrets of a command line.

    Example:
        >>> remember_words(["decode.py", "--hf-token", "hf_abc", "password=hunter3"])
        >>> scrubbed("hf_abc, hunter3, decode.py")
        '***, ***, decode.py'
    """
    for word, following in itertools.pairwise([*words, "-"]):
        if found := re.fullmatch(_GIVEN, word):
            remember(found[2], found[1])
        elif word.startswith("--") and not following.startswith("-"):
            remember(following, word)
