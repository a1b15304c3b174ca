"""`python -m benchmarks`: everything side by side, in one go; writes RESULTS.md.

Each row is a function whose docstring says what is timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    claims,
    code,
    collect,
    makespan,
    s3,
    situations,
    submit,
    sync,
    tail,
    tail_beside,
    worker,
    writers,
)
from benchmarks.measuring import ROOT, Bench, BenchmarkFailed, Line, NotThere
from benchmarks.report import as_text, write_report
from tests.support import guard
from tests.support.debian import PackagesUnavailableError

ROWS: dict[str, Callable[[Bench], list[Line]]] = {
    "submit-1000": submit.submit_1000,
    "submit-10000": submit.submit_10000,
    "snapshot-1000": code.snapshot_1000,
    "worker-start": worker.worker_start,
    "further-shard": worker.further_shard,
    "million-items": worker.million_items,
    "collect-file": collect.collect_file,
    "collect-list": collect.collect_list,
    "collect-parquet": collect.collect_parquet,
    "status-10000": submit.status_10000,
    "resume-1-of-10000": submit.resume_one,
    "makespan-64": makespan.makespan_64,
    "tail": tail.tail,
    "tail-peers": tail_beside.tail_peers,
    "few": tail_beside.few,
    "preempt": tail_beside.preempt,
    "situations": situations.situations_of_schedules,
    "claims-counted": claims.claims_counted,
    "claim-throughput": claims.claim_throughput,
    "s3-submit-500": s3.s3_submit_500,
    "sync": sync.sync,
    "write-record": writers.write_record,
}


def main(arguments: list[str]) -> int:
    """Run the rows; 1 where one falls short."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", metavar="NAME", action="append", choices=ROWS, help=", ".join(ROWS)
    )
    parser.add_argument("--quick", action="store_true", help="small and once: does it work?")
    parser.add_argument("--runs", metavar="N", type=int, help="repeat nothing more often")
    parser.add_argument("--output", metavar="FILE", type=Path, help="default: RESULTS.md")
    parser.add_argument("--folder", help="where to work; its disk is measured")
    parser.add_argument(
        "--peers", metavar="PYTHON", type=Path, default=ROOT / ".venv-peers/bin/python",
        help="an interpreter that has what benchmarks/peers.txt names",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    lines: dict[str, list[Line]] = {}
    left_out: dict[str, str] = {}
    failed = False
    temporary = tempfile.TemporaryDirectory(
        prefix="bench-", dir=options.folder, ignore_cleanup_errors=True
    )
    peers, settings = options.peers, {"quick": options.quick, "most_runs": options.runs}
    with temporary as folder, Bench(Path(folder), peers, **settings) as bench:
        for name in options.only or ROWS:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                lines[name] = ROWS[name](bench)
            except (NotThere, PackagesUnavailableError) as missing:
                left_out[name] = str(missing)
                print(f"  left out: {missing}", file=sys.stderr)
            except BenchmarkFailed as error:  # the other rows are worth having
                left_out[name] = f"failed: {str(error).splitlines()[-1]}"
                failed = True
                print(error, file=sys.stderr)
            for line in lines.get(name, ()):
                print(f"  {as_text(line)}", flush=True)
        output = options.output
        if output is None and not (options.quick or options.only):
            output = ROOT / "benchmarks/RESULTS.md"
        if output is not None:
            write_report(output, lines, left_out, bench, ["python -m benchmarks", *arguments])
    missed = [line for found in lines.values() for line in found if line.kept is False]
    return 1 if failed or (missed and not options.quick) else 0


if __name__ == "__main__":
    guard.watch()
    sys.exit(main(sys.argv[1:]))
