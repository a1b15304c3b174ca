"""Ranks, spec files and settings on one command line."""

from pathlib import Path

import click
import pytest

from espnet3.cli.arguments import Duration, Seconds, as_options, ranks_and_files, split_settings
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


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        ("90", 90), ("45s", 45), ("90m", 5400), ("1h", 3600), ("1h30m", 5400), ("1h30", 3630),
        ("2d", 172800), ("1d12h", 129600), ("01:30:00", 5400), ("100:00:00", 360000),
        (" 1h ", 3600),
    ],
)  # fmt: skip
def test_a_time(word: str, seconds: float) -> None:
    assert Duration().convert(word, None, None) == seconds
    assert Duration().convert(float(seconds), None, None) == seconds


@pytest.mark.parametrize("word", ["abc", "nan", "inf"])
def test_no_number_of_seconds(word: str) -> None:
    with pytest.raises(click.BadParameter, match=f"'{word}' is not a number of seconds"):
        Seconds(min=0.1).convert(word, None, None)


@pytest.mark.parametrize("word", ["0", "0s", "0h0m", "00:00:00"])
def test_no_time_at_all(word: str) -> None:
    with pytest.raises(click.BadParameter, match=f"'{word}' is no time at all"):
        Duration().convert(word, None, None)


@pytest.mark.parametrize(
    "word",
    ["", " ", "-1", "-1h", "soon", "1.5h", "nan", "inf", "1h30m15x", "30m1h", "1:30", "1:60:00",
     "h", "1 h", "1e3"],
)  # fmt: skip
def test_nonsense_is_no_time(word: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time such as 90m, 1h or 01:30:00"):
        Duration().convert(word, None, None)
