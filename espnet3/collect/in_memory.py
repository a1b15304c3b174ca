"""Results as what pandas and Hugging Face's datasets work with, in memory."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from espnet3.collect.result_parts import Vouched
from espnet3.collect.vouching import Errors, vouch
from espnet3.run_dir.output_names import pickled_results, require_installed
from espnet3.run_dir.trust import Trust
from espnet3.run_dir.verification import PATIENCE, stopping

if TYPE_CHECKING:
    import datasets
    import pandas as pd


async def to_pandas(
    run_dir: str | os.PathLike[str],
    *,
    partial: bool = False,
    errors: Errors = "raise",
    patience: float = PATIENCE,
    trust: Trust | None = None,
) -> pd.DataFrame:
    """The results of a run as a DataFrame of pandas, a row for each item, in the items' order.

    Its columns are `item` and the fields of the results, as in a Parquet file. Arguments and errors
    are those of `collect`.

    Raises:
        UsageError: pandas is not installed (`espnet3[pandas]`), or the results are pickled.

    Example:
        >>> frame = await to_pandas("/shared/decode")     # doctest: +SKIP
        >>> frame[frame.text == ""].item.tolist()         # doctest: +SKIP
        [17, 1204]
    """
    require_installed("to_pandas", "pandas")
    table = await _table("to_pandas", run_dir, partial, errors, patience, trust)
    # Whole numbers among which one is missing stay what they are.
    frame: pd.DataFrame = await asyncio.to_thread(table.to_pandas, integer_object_nulls=True)
    return frame


async def to_dataset(
    run_dir: str | os.PathLike[str],
    *,
    partial: bool = False,
    errors: Errors = "raise",
    patience: float = PATIENCE,
    trust: Trust | None = None,
) -> datasets.Dataset:
    """The results of a run as a Dataset of Hugging Face, in memory.

    Its columns are `item` and the fields of the results, as in a Parquet file, which is the way for
    more results than memory holds: `collect(run_dir, "hyp.parquet")`, then
    `datasets.Dataset.from_parquet("hyp.parquet")`. Arguments and errors are those of `collect`.

    Raises:
        UsageError: datasets is not installed (`espnet3[datasets]`), or the results are pickled.

    Example:
        >>> dataset = await to_dataset("/shared/decode")  # doctest: +SKIP
        >>> dataset.column_names                          # doctest: +SKIP
        ['item', 'text']
    """
    require_installed("to_dataset", "datasets")
    table = await _table("to_dataset", run_dir, partial, errors, patience, trust)
    return await asyncio.to_thread(_dataset, table)


def _dataset(table: Any) -> datasets.Dataset:
    import datasets

    return datasets.Dataset(table)


async def _table(
    what: str,
    run_dir: str | os.PathLike[str],
    partial: bool,
    errors: Errors,
    patience: float,
    trust: Trust | None,
) -> Any:
    """The results as a table of Arrow."""
    require_installed(what, "pyarrow")

    def read(vouched: Vouched) -> Any:
        from espnet3.collect.table_files import table_of

        if vouched.run.results == "pickle":
            raise pickled_results(what)
        return table_of(vouched)

    with stopping() as stop:
        vouched = await vouch(run_dir, partial, errors, patience, trust, stop)
        return await asyncio.to_thread(read, vouched)
