"""Ranks, spec files and settings on one command line."""

from pathlib import Path

import pytest

from espnet3.cli.arguments import as_options, ranks_and_files, split_settings
from espnet3.errors import UsageError


def test_ranks_ranges_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "lr=0.1" / "000003.json"
    spec.parent.mkdir()
    spec.touch()
    words, settings = split_settings(["7", "lr=0.1/000003.json", "20-22"], [])
    assert settings == []
    found = ranks_and_files([*words, "s3://bucket/run/shards/000001.json"])
    assert [*found] == [7, "lr=0.1/000003.json", 20, 21, 22, "s3://bucket/run/shards/000001.json"]


def test_a_range_is_not_written_out_before_it_is_read() -> None:
    assert next(ranks_and_files(["0-999999999999"])) == 0


@pytest.mark.parametrize("word", ["5-3", "x", "-1", "1-", "shards/000001.json", "1,2"])
def test_no_rank(word: str) -> None:
    with pytest.raises(UsageError, match=f"^{word}: "):
        [*ranks_and_files([word])]


def test_settings_after_the_first_need_no_option_of_their_own() -> None:
    assert split_settings(["3", "walltime=04:00:00"], ["memory=64GB"]) == (
        ["3"],
        ["memory=64GB", "walltime=04:00:00"],
    )
    with pytest.raises(UsageError, match="write --set memory=64GB"):
        split_settings(["memory=64GB"], [])


def test_options() -> None:
    given = ["memory=64GB", "walltime=04:00:00", "cores=4", "memory=8GB"]
    assert as_options(given) == {"memory": "8GB", "walltime": "04:00:00", "cores": 4}
