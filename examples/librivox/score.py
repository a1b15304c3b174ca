"""Collect a finished run and score it: `python score.py RUN_DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

import jiwer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from espnet3 import Run
from espnet3.errors import EspnetError

TRANSCRIPTS = Path(__file__).resolve().parent / "data" / "transcripts.tsv"

# What does not count as an error: case, punctuation, and that the model writes "mr".
NORMALISE = jiwer.Compose(
    [
        jiwer.ToLowerCase(),
        jiwer.RemovePunctuation(),  # type: ignore[no-untyped-call]
        jiwer.SubstituteWords({"mr": "mister"}),
    ]
)


def main(run_dir: str) -> None:
    references = dict(line.split("\t") for line in TRANSCRIPTS.read_text().splitlines())
    try:
        results = Run(run_dir).collect()  # all of them, verified, in the items' order
    except EspnetError as error:  # too early, for example; it says which shards are missing and why
        sys.exit(f"error: {error}")

    table = Table("id", "reference", "hypothesis", show_lines=True)
    table.add_column("errors / words", justify="right")
    errors = words = 0
    for result in results:
        reference = NORMALISE(references[result["id"]])
        scored = jiwer.process_words(reference, NORMALISE(result["hypothesis"]))
        wrong = scored.substitutions + scored.deletions + scored.insertions
        total = len(reference.split())
        table.add_row(result["id"], reference, mark_errors(scored), f"{wrong} / {total}")
        errors += wrong
        words += total

    console = Console()
    console.print(table)
    console.print(f"word error rate: {errors / words:.1%} ({errors} of {words} words)")


def mark_errors(scored: jiwer.WordOutput) -> Text:
    """The hypothesis of one scored utterance, its wrong words in red."""
    text = Text()
    for chunk in scored.alignments[0]:
        style = "" if chunk.type == "equal" else "red"
        for word in scored.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]:
            text.append(word, style).append(" ")
    text.rstrip()
    return text


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
