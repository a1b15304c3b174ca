"""What looks secret stands in run.json, since workers need it, and in nothing that is printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from espnet3 import redaction
from espnet3.config.model import as_parallel_config
from espnet3.errors import ConfigError, PlanMismatch, PreflightError
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.redaction import is_secret, masked, masked_text
from espnet3.run import submit_run
from tests.support.commands import said

SECRET = "hunter2-Zq9"
CONFIG = {
    "user": "me",
    "hub": {"token": SECRET, "mirrors": [{"Password": SECRET}]},
    "aws": {"secretAccessKey": [SECRET]},
}
NAMES = [
    "token", "HF_TOKEN", "hubToken", "password", "PASSWD", "db.password", "secret", "clientSecret",
    "api_key", "API-KEY", "apikey", "access_key", "aws_access_key_id", "credentials", "private_key",
    "auth", "basic_auth", "OAuth", "authorization", "ssh_key", "bearer",
]  # fmt: skip
PLAIN = [
    "token_list", "token_type", "max_tokens", "tokens", "tokenizer", "author", "keys", "key",
    "n_workers", "options", "memory", "model", "beam", "passes", "compass", "authors", "",
    "unk_token", "bos_token", "eosToken", "PAD_TOKEN", "sep_token", "cls_token", "mask_token",
    "blank_token", "sos_token", "decoder_start_token", "word_delimiter_token",
]  # fmt: skip


class Provider(EnvironmentProvider):
    """Says all that it was given where the config asks for it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if self.config.get("where") == "constructor" and "ESPNET3_IN_WORKER" in os.environ:
            raise ValueError(f"cannot log in with {config}")

    def build_env_local(self) -> dict[str, Any]:
        if self.config.get("where") == "environment":
            raise ValueError(f"cannot log in with {self.config}")
        return {"config": self.config}


class Runner(BaseRunner):
    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        config = env["config"]
        if config.get("where") == "forward":
            key = os.environ.get("MY_API_KEY", "")
            raise ValueError(f"cannot log in with {config} and {key}")
        return idx


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())


def no_secret(*texts: str) -> None:
    for text in texts:
        assert text, "there is nothing to look at"
        assert SECRET not in text, text
    assert any("***" in text for text in texts), texts


def printed(*words: str) -> str:
    _, out, err = said(*words)
    return out + err


@pytest.mark.parametrize("name", NAMES)
def test_what_looks_secret(name: str) -> None:
    assert is_secret(name)
    assert masked({"a": [{name: {"deep": SECRET}}]}) == {"a": [{name: "***"}]}
    assert masked(SECRET, f"config.{name}.0") == "***"


@pytest.mark.parametrize("name", PLAIN)
def test_what_does_not(name: str) -> None:
    assert not is_secret(name)
    assert masked({name: 5}) == {name: 5}


@pytest.mark.parametrize(
    "value", ["char", "word", "bpe", "phn", "whisper_multilingual", "BPE", "<unk>", "</s>", "[CLS]",
              "<|startoftext|>", "|", "▁", "true", "None", 5, 250001]
)  # fmt: skip
def test_kinds_of_tokens_are_no_secrets(value: Any) -> None:
    assert masked({"token": value}) == {"token": value}
    redaction.remember({"token": value})
    assert redaction._known == set()


@pytest.mark.parametrize(
    "value", ["hf_AbCdEfGhIjKlMnOp", "hf_" + "abcdefghij" * 3, "ghp_16C7e42F292c", "a1b2c3d4",
              SECRET, "0123456789abcdef", "glpat-xY12", "eyJhbGciOi.J9", "two words", 12345678,
              "ABCdefGHI",
              "abcdefghijklmnopqrstuvwxyz"]
)  # fmt: skip
def test_what_may_be_a_key_is_one(value: Any) -> None:
    for key in ("token", "HF_TOKEN", "hubToken"):
        assert masked({key: value}) == {key: "***"}
    redaction.remember({"token": value})
    assert redaction.scrubbed(
        f"cannot use {value!r}: x{value}y"
    ) == "cannot use '***': x***y".replace("'***'", repr(value).replace(str(value), "***"))


def test_a_word_is_a_secret_where_the_key_says_more_than_token() -> None:
    for key in ("HF_TOKEN", "access_token", "password", "api_key"):
        assert masked({key: "sesame"}) == {key: "***"}
    assert masked_text("HF_TOKEN=sesame; run --token char --unk_token='<unk>'") == (
        "HF_TOKEN=***; run --token char --unk_token='<unk>'"
    )
    redaction.remember({"password": "sesame", "api_key": 1234, "secret": "false"})
    said = redaction.scrubbed("open sesame! (sesame, 1234) sesameseeds open_sesame.txt 12345 false")
    assert said == "open ***! (***, ***) sesameseeds open_sesame.txt 12345 false"


def test_words_of_speech_models_stay_readable(tmp_path: Path) -> None:
    """An error of the user's code that names a token, and a path with the kind of tokens in it."""
    config = {"unk_token": "<unk>", "eos_token": "</s>", "token": "char", "where": "forward"}
    runner = Runner(Provider({**config, "hub": {"token": SECRET}}))
    keys = {"preflight": False}
    run = submit_run(runner, range(1), run_dir=tmp_path / "run", parallel=keys)
    run.wait(60, 0.1)
    [cause] = [shard.cause for shard in run.status().shards]
    for part in (
        "'unk_token': '<unk>'",
        "'eos_token': '</s>'",
        "'token': 'char'",
        "'token': '***'",
    ):
        assert part in cause


def test_a_value_that_holds_itself_is_shown_all_the_same() -> None:
    config: dict[str, Any] = {}
    config["again"] = [config]
    assert "…" in str(masked(config))


def test_scripts_and_commands() -> None:
    lines = f"""
    export HF_TOKEN={SECRET}
    API_KEY='{SECRET} "x"' other=1 ; run --password "{SECRET}" --token={SECRET} --user me
    MY_SECRET=a\\ {SECRET}"{SECRET}"'{SECRET}' PATH=/bin
    """
    shown = masked_text(lines)
    no_secret(shown)
    assert "other=1" in shown
    assert "--user me" in shown
    assert "PATH=/bin" in shown
    plain = "#SBATCH --token_list=a\nexport OMP_NUM_THREADS=4 tokenizer=x\n"
    assert masked_text(plain) == plain


def test_errors_about_values_do_not_show_them(tmp_path: Path) -> None:
    for raw in (
        {"options": {"api_key": {SECRET}}},
        {"options": {"password": {"x": [SECRET, {1}]}}},
        {"options": {"token": float("nan"), "x": {"secret": SECRET}}},
        {"options": [{"secret": SECRET}]},
        {"n_workers": {"password": SECRET}},
        [{"token": SECRET}],
    ):
        with pytest.raises(ConfigError) as caught:
            as_parallel_config(raw)
        assert SECRET not in str(caught.value)
    for config in (
        {"token": {"x": threading.Lock(), "y": SECRET}},
        {"password": SECRET + "\ud800"},
        {"a": {"secret": object()}, "b": SECRET},
        {"credentials": [10**40, threading.Lock()]},
    ):
        with pytest.raises(ConfigError) as caught:
            submit_run(Runner(Provider(config)), range(2), run_dir=tmp_path / "run")
        assert SECRET not in str(caught.value)
        assert str(10**40) not in str(caught.value)


def test_a_run_of_another_plan(tmp_path: Path) -> None:
    config = {"preflight": False}
    run = submit_run(Runner(Provider(CONFIG)), range(2), run_dir=tmp_path / "run", parallel=config)
    run.wait(60, 0.1)
    assert SECRET in (tmp_path / "run/run.json").read_text()  # as the documents say
    others: list[Any] = [
        {**CONFIG, "hub": {"token": f"other {SECRET}"}},
        {**CONFIG, "hub": {"token": SECRET, "mirrors": []}},
        {"user": "me"},
        {**CONFIG, "hub": None},
    ]
    for other in others:
        with pytest.raises(PlanMismatch) as caught:
            submit_run(Runner(Provider(other)), range(2), run_dir=tmp_path / "run")
        no_secret(str(caught.value))


@pytest.mark.parametrize("where", ["constructor", "environment", "forward"])
def test_the_users_own_error_quotes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("MY_API_KEY", f"{SECRET}-from-the-environment")
    runner = Runner(Provider({**CONFIG, "where": where}))
    config = {"preflight": False, "environment_variables": ["MY_API_KEY"]}
    run = submit_run(runner, range(2), run_dir=tmp_path / "run", parallel=config)
    assert run.wait(60, 0.1).counts() == {"failed": 1}
    folder = str(tmp_path / "run")
    [record] = (tmp_path / "run/attempts").glob("*.failed.json")
    no_secret(
        record.read_text(),
        printed("status", folder),
        printed("status", folder, "--json"),
        printed("collect", folder),
        Path(run.logs(0)[-1]).read_text(),
    )
    if where == "forward":
        done = subprocess.run(
            [sys.executable, "-P", "-m", "espnet3", "run-shard", f"{folder}/shards/000000.json"],
            capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        no_secret(done.stdout + done.stderr)


def test_preflight(tmp_path: Path) -> None:
    runner = Runner(Provider({**CONFIG, "where": "constructor"}))
    with pytest.raises(PreflightError) as caught:
        submit_run(runner, range(2), run_dir=tmp_path / "run")
    no_secret(str(caught.value), caught.value.output)


MODULE = """
from espnet3.parallel import BaseRunner, EnvironmentProvider

class Provider(EnvironmentProvider):
    def __init__(self, config, login):
        super().__init__(config)
        if config.get("fail"):
            raise ValueError(f"cannot log in with {config} {login}")
    def build_env_local(self):
        return {}

class Runner(BaseRunner):
    @staticmethod
    def forward(idx, **env):
        return idx
"""


def test_submit_and_its_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for sbatch, which a dry run looks for and does not call."""
    (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    (tmp_path / "secret_module.py").write_text(MODULE)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    document = {
        "provider": {"_target_": "secret_module.Provider", "login": {"password": SECRET}},
        "runner": {"_target_": "secret_module.Runner"},
        "items": 3,
        "run_dir": str(tmp_path / "run"),
        "config": {"hub": {"token": SECRET}},
        "parallel": {
            "env": "slurm",
            "max_array_size": 10,
            "options": {
                "cores": 1,
                "memory": "1GB",
                "job_script_prologue": [f"export HF_TOKEN={SECRET}", f"login --api-key '{SECRET}'"],
                "job_extra_directives": [f"--comment=password={SECRET}"],
            },
        },
    }
    (tmp_path / "decode.yaml").write_text(json.dumps(document))
    no_secret(printed("submit", "decode.yaml", "--dry-run"))
    no_secret(printed("submit", "decode.yaml", "--dry-run", "--json"))
    no_secret(printed("submit", "decode.yaml", "config.fail=true", "--dry-run"))
    wrong = {**document, "provider": [{"password": SECRET}], "items": {"start": {"token": SECRET}}}
    (tmp_path / "decode.yaml").write_text(json.dumps(wrong))
    no_secret(printed("submit", "decode.yaml", "--dry-run"))
    assert not (tmp_path / "run").exists()
