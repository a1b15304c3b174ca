"""YAML as users mean it."""

from typing import Any

import pytest

from espnet3.specs.errors import ConfigError
from espnet3.specs.yaml_values import parse_setting, parse_yaml


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
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' stands twice"),
        ("a: !!python/object:os.system {}", "line 1"),
    ],
)
def test_no_yaml(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=r"^file: is no YAML: ") as caught:
        parse_yaml(text, "file")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
