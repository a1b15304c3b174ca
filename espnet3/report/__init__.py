"""A run as one HTML page: what ran, when, what it took, and what failed.

`model` is what is known, `reading` gets it from the records, `workers`, `times`, `spread`,
`efficiency`, `advice` and `failures` compute from it without a file or a clock, `drawing` and
`page` show it.
"""

from espnet3._lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
