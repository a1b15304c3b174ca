"""`python -m benchmarks.claims_growth`: what claims of 10^3 workers cost at 10^6 shards, computed.

From what the row claims-counted counted for 64 workers and 10,000 shards of 20 s.
"""

from __future__ import annotations

from benchmarks.scaling_report import PRICES

WORKERS, SHARDS = 1_000, 1_000_000
LISTED = 1_000  # names that S3 gives for a request
# For each shard: the plan's id read and a create, and those that found their names taken.
CREATES = 10_435 / 10_000
READS = CREATES
# For each worker, where nothing is free: looks at others and at what is left, and listings, after
# each of which it reads the plan's id and writes what is left.
LISTINGS = 24 / 64
LOOKS = (15_840 - 10_435 - 24 + 1_286) / 64
SIGNS = 205_519 / 10_000  # for each shard of 20 s, with a look for another claim each
SECONDS = 20.0


def rows() -> list[tuple[str, float, float]]:
    """What, operations in all, and USD on S3."""
    put, get, listing = PRICES["PUT"], PRICES["GET"], PRICES["LIST"]
    creates, looks, signs = CREATES * SHARDS, LOOKS * WORKERS, SIGNS * SHARDS
    listings = LISTINGS * WORKERS
    lefts = 2 * listings
    requests = listings * SHARDS / LISTED
    return [
        ("claims: reads of the plan", READS * SHARDS, READS * SHARDS * get),
        ("claims: creates", creates, creates * put),
        ("looks at others, in the end", looks, looks * get),
        (f"listings, each {SHARDS // LISTED:,} requests on S3", listings, requests * listing),
        ("what is left: a read and a write after each", lefts, listings * (put + get)),
        ("signs of life, replaced", signs, signs * put),
        ("looks for a claim of the own shard", signs, signs * get),
    ]


def main() -> None:
    """Print the table."""
    seconds = SECONDS * SHARDS / WORKERS
    print("| what | operations | a second, on NFS | USD on S3 |\n| --- | ---: | ---: | ---: |")
    for name, count, usd in rows():
        print(f"| {name} | {count:,.0f} | {count / seconds:,.3g} | {usd:.3g} |")


if __name__ == "__main__":
    main()
