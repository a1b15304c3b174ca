"""How a script runs the worker: in the shell's place, or below it where the script has traps.

`exec` lets the signals that a scheduler sends to the batch script reach the worker, but an EXIT
trap of the user's prologue would never run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_OTHER_SHELLS = re.compile(r"\b(t?csh|fish)\b")
_OTHER_SYNTAX = re.compile(r"^\s*(un)?setenv\b|\.t?csh\b")

# Whether there are traps is only known when the prologue has run: it may source them. bash tells
# them in `$(trap)`, dash only to a file; one that tells them nowhere keeps its shell.
# A signal cuts `wait` short, so it is asked again; by then dash may have forgotten the code (127),
# and bash too (-1).
# What the script's own traps do at a signal, they do when the worker has ended.
_FUNCTIONS = r"""
espnet3_run() {
  trap : WINCH
  espnet3_traps=$(trap)
  trap - WINCH
  case $espnet3_traps in
    *WINCH*) espnet3_traps=$(trap) ;;
    *)
      espnet3_traps="trap -- : WINCH"
      if espnet3_file=$(mktemp 2>/dev/null) && trap >"$espnet3_file"; then
        espnet3_traps=$(cat "$espnet3_file")
        rm -f "$espnet3_file"
      fi ;;
  esac
  if [ -z "$espnet3_traps" ] ||
    ! printf '%s\n' "$espnet3_traps" | grep -vx "trap -- '' [A-Z0-9+-]*" >/dev/null; then
    exec "$@"
  fi
  espnet3_signal= espnet3_worker= espnet3_code=
  for espnet3_name in TERM USR1 USR2 XCPU INT HUP; do
    trap "espnet3_told $espnet3_name" "$espnet3_name"
  done
  "$@" <&0 &
  espnet3_worker=$!
  if [ -n "$espnet3_signal" ]; then espnet3_told "$espnet3_signal"; fi
  espnet3_again=yes
  while [ -n "$espnet3_again" ]; do
    espnet3_again= espnet3_status=0
    wait "$espnet3_worker" 2>/dev/null || espnet3_status=$?
    case ${espnet3_code:+again }$espnet3_status in
      "again 127" | "again -1") ;;
      *) espnet3_code=$espnet3_status ;;
    esac
  done
  trap - TERM USR1 USR2 XCPU INT HUP
  eval "$espnet3_traps"
  if [ -n "$espnet3_signal" ] && printf '%s\n' "$espnet3_traps" |
    grep -e " $espnet3_signal$" -e " SIG$espnet3_signal$" >/dev/null; then
    kill -s "$espnet3_signal" $$
  fi
  exit "$espnet3_code"
}
espnet3_told() {
  espnet3_signal=$1 espnet3_again=yes
  if [ -n "$espnet3_worker" ]; then kill -s "$1" "$espnet3_worker" 2>/dev/null || :; fi
}
""".strip()


def in_place_of_the_shell(worker: str, lines: Sequence[str], shebang: str) -> str:
    """The end of a script that runs the worker, with signals and exit code as if it were alone.

    Args:
        worker: its command, as words for a shell.
        lines: the prologue's lines that are the user's.
        shebang: the script's first line.

    Example:
        >>> in_place_of_the_shell("python -m x", [], "#!/bin/sh")
        'exec python -m x'
    """
    other = _OTHER_SHELLS.search(shebang) or any(map(_OTHER_SYNTAX.search, lines))
    if other or not lines:
        return f"exec {worker}"
    return f"{_FUNCTIONS}\nespnet3_run {worker}"
