"""The command that a person typed, as a submission notes it for whoever reads a report."""

from __future__ import annotations

import os
import shlex
import sys

from espnet3.redaction import masked_text, remember_words
from espnet3.text import cut

_MOST = 4000  # bytes; more may follow `python -c`


def typed_command() -> str:
    """The command line that this process was started with; nothing of it that looks secret.

    Nobody needs the secrets of it again: workers get what `sys.argv` holds.
    """
    words = [os.fsencode(word).decode("utf-8", "backslashreplace") for word in sys.orig_argv]
    if len(words) > 1 and os.path.basename(words[1]) == "espnet3":  # the script that pip makes
        words = ["espnet3", *words[2:]]
    remember_words(words)
    return cut(masked_text(shlex.join(words)), _MOST)
