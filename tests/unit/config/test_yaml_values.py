"""YAML as users mean it."""

from pathlib import Path
from typing import Any

import pytest

from espnet3.config.yaml_values import parse_setting, parse_yaml, written
from espnet3.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("04:00:00", "04:00:00"),
        ("12:00:00", "12:00:00"),
        ("1-12:00:00", "1-12:00:00"),
        ("90:30", "90:30"),
        ("1:30.5", "1:30.5"),
        ("2026-01-02", "2026-01-02"),
        ("64GB", "64GB"),
        ("3", 3),
        ("-3", -3),
        ("1_000", 1000),
        ("0x10", 16),
        ("0", 0),
        ("1.5", 1.5),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("'5'", "5"),
        ("[--gres=gpu:1, 12:00:00]", ["--gres=gpu:1", "12:00:00"]),
    ],
)
def test_what_a_value_means(text: str, value: Any) -> None:
    found = parse_setting(f"key={text}")[1]
    assert found == value
    assert type(found) is type(value)
    assert parse_yaml(f"key: {text}", "file") == {"key": value}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("0123", "0123"), ("1e3", "1e3"), ("0x1F", "0x1F"), ("1_000", "1_000"), ("on", "on"),
        ("no", "no"), ("1.50", "1.50"), ("007", "007"), ("12", 12), ("1.5", 1.5), ("-3", -3),
        ("text", "text"), ("12:00:00", "12:00:00"), ("~", None), ("'0123'", "0123"),
    ],
)  # fmt: skip
def test_options_that_are_text_are_what_stands_there(text: str, kept: Any) -> None:
    for key in ("account", "options.account", "parallel.options.account"):
        assert parse_setting(f"{key}={text}") == (key, kept)
    options = {"cores": 4, "account": kept, "job_extra_directives": {"+a": kept}}
    inner = f"{{cores: 4, account: {text}, job_extra_directives: {{+a: {text}}}}}"
    assert parse_setting(f"parallel.options={inner}")[1] == options
    for beside in ("env: slurm", "n_workers: 3", "ranks: 3"):
        found = parse_yaml(f"parallel:\n  - {{{beside}, options: {inner}}}", "file")
        assert found["parallel"][0]["options"] == options
    merged = f"base: &o {inner}\nslurm: &s {{env: slurm, options: *o}}\nparallel: {{<<: *s}}"
    assert parse_yaml(merged, "file")["parallel"]["options"] == options
    merged = f"base: &o {inner}\nparallel: {{env: slurm, options: {{<<: *o, queue: 1e3}}}}"
    assert parse_yaml(merged, "file")["parallel"]["options"] == {**options, "queue": "1e3"}


def test_only_options_of_jobs_are_text() -> None:
    """`account` may be anything in a user's own config."""
    assert parse_setting("config.account=0123")[1] == 83
    own = "config: {account: 0123, options: {account: 0123, queue: 1e3}}\nn_shards: 010"
    assert parse_yaml(own, "file") == {
        "config": {"account": 83, "options": {"account": 83, "queue": 1000.0}}, "n_shards": 8,
    }  # fmt: skip
    assert parse_yaml("{env: slurm, options: {cores: 010}}", "file")["options"] == {"cores": 8}


def test_what_a_file_says_for_a_value_of_a_reader_of_yaml_1_1(tmp_path: Path) -> None:
    file = tmp_path / "jobqueue.yaml"
    file.write_text("jobqueue: {slurm: {account: 0123, queue: on, name: 12}}\n")
    keys = ("jobqueue", "slurm")
    assert written(str(file), (*keys, "account"), 83) == "0123"
    assert written(str(file), (*keys, "queue"), True) == "on"
    assert written(str(file), (*keys, "account"), 84) is None  # somebody has set another
    assert written(str(file), (*keys, "nothing"), 1) is None
    assert written(f"{file}.not", (*keys, "account"), 83) is None
    file.write_text("jobqueue: {slurm: [")
    assert written(str(file), (*keys, "account"), 83) is None


def test_the_first_equals_sign_splits() -> None:
    assert parse_setting("job_extra=--gres=gpu:1") == ("job_extra", "--gres=gpu:1")


@pytest.mark.parametrize("word", ["walltime", "=3", ""])
def test_no_setting(word: str) -> None:
    with pytest.raises(ConfigError, match="write key=value"):
        parse_setting(word)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: [1,", "line 3"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: duplicate key 'a'"),
        ("a: !!python/object:os.system {}", "line 1"),
    ],
)
def test_no_yaml(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=r"^file: is not YAML: ") as caught:
        parse_yaml(text, "file")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
