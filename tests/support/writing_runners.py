"""Runners that write their results themselves, for the tests of all three modes.

Each notes in `computed`, in the folder that the config names, each item that it computes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from espnet3.parallel import BaseRunner, EnvironmentProvider, concatenate_shard_files
from tests.support.runners import GATE, MENDED, note


class Study(EnvironmentProvider):
    """The environment is the config: `folder`, and optionally lists of items: those at which

    `forward` fails (`failing`), kills its process (`killing`, or once `dying`), or waits (`gated`).
    Or it fails at the second item of `failing_behind` when another process has begun the first one.
    All this until it is mended, or the gate is open; see `tests.support.runners`.
    """

    def build_env_local(self) -> dict[str, Any]:
        note(self.config["folder"], "built", os.getpid())
        return dict(self.config)


def computed(folder: Path) -> list[int]:
    """The items that were computed, in order."""
    path = folder / "computed"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def compute(idx: int, env: dict[str, Any]) -> None:
    """Note an item, and do what is to happen there."""
    folder = Path(env["folder"])
    note(folder, "computed", idx)
    begun, failing = env.get("failing_behind", (None, None))
    if idx == failing and not (folder / GATE).exists():
        while begun not in computed(folder):
            time.sleep(0.02)
        raise ValueError(f"item {idx} is bad")
    while idx in env.get("gated", ()) and not (folder / GATE).exists():
        time.sleep(0.02)
    if not (folder / MENDED).exists():
        if idx in env.get("failing", ()):
            raise ValueError(f"item {idx} is bad")
        first = idx in env.get("dying", ()) and computed(folder).count(idx) == 1
        if first or idx in env.get("killing", ()):
            os.kill(os.getpid(), signal.SIGKILL)


class Decode(BaseRunner):
    """As ESPnet3's inference: values in an .scp file for each field, arrays beside it."""

    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        if isinstance(idx, list):
            return [Decode.forward(one, **env) for one in idx]
        compute(idx, env)
        return {
            "utt_id": f"utt{idx:03d}",
            "hyp": f"„{idx}“ and on",
            "score": idx / 3,
            "encoded": np.arange(idx, idx + 3, dtype=np.float32),
        }

    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        return {"folder": shard_dir, "files": {}}

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        for one in result if isinstance(result, list) else [result]:
            utterance = one["utt_id"]
            for field, value in one.items():
                if field == "utt_id":
                    continue
                if isinstance(value, np.ndarray):
                    path = (writers["folder"] / field / f"{utterance}.npy").absolute()
                    path.parent.mkdir(exist_ok=True)
                    np.save(path, value)
                    value = path
                if field not in writers["files"]:
                    path = writers["folder"] / f"{field}.scp"
                    writers["files"][field] = path.open("w", encoding="utf-8")
                writers["files"][field].write(f"{utterance} {value}\n")

    @staticmethod
    def close_writers(writers: dict[str, Any]) -> None:  # type: ignore[override]  # ESPnet3's
        for file in writers["files"].values():
            file.close()
        names = "".join(f"{field}\n" for field in sorted(writers["files"]))
        (writers["folder"] / "field_keys.txt").write_text(names, encoding="utf-8")

    def merge(self, shard_dirs: list[Path]) -> dict[str, int]:
        """Merged files in the output's folder; returns how many lines each has."""
        assert self.output_dir is not None
        out = self.output_dir / self.shard_subdir
        fields = {
            name
            for folder in shard_dirs
            for name in (folder / "field_keys.txt").read_text(encoding="utf-8").split()
        }
        for name in fields:
            concatenate_shard_files(shard_dirs, f"{name}.scp", out / f"{name}.scp")
        return {
            name: (out / f"{name}.scp").read_text(encoding="utf-8").count("\n")
            for name in sorted(fields)
        }


class Statistics(BaseRunner):
    """As ESPnet3's collect_stats: sums in the state, which end in one file for each shard."""

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        compute(idx, env)
        return np.array([idx, idx * idx], dtype=np.float64)

    @classmethod
    def init_state(cls, *args: Any, **env: Any) -> dict[str, Any]:
        return {**super().init_state(*args, **env), "sum": np.zeros(2), "count": 0}

    @classmethod
    def reduce_state(cls, state: dict[str, Any], result: Any, **env: Any) -> dict[str, Any]:
        return {**state, "sum": state["sum"] + result, "count": state["count"] + 1}

    @classmethod
    def finalize_state(cls, state: dict[str, Any], **env: Any) -> dict[str, Any]:
        state = super().finalize_state(state, **env)
        np.savez(Path(state["shard_dir"]) / "stats.npz", sum=state["sum"], count=state["count"])
        return state

    def merge(self, shard_dirs: list[Path]) -> dict[str, Any]:
        """The sums of all shards; also in `stats.json`."""
        parts = [np.load(folder / "stats.npz") for folder in shard_dirs]
        merged = {
            "sum": np.sum([part["sum"] for part in parts], axis=0).tolist(),
            "count": int(sum(part["count"] for part in parts)),
        }
        assert self.output_dir is not None
        (self.output_dir / self.shard_subdir / "stats.json").write_text(json.dumps(merged))
        return merged


class Kinds(BaseRunner):
    """Results that JSON cannot hold: paths, arrays, tuples."""

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        compute(idx, env)
        return {"path": Path("a") / str(idx), "array": np.ones(idx), "both": (idx, {idx})}

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        shown = {name: type(value).__name__ for name, value in result.items()}
        state["records"].append([str(result["path"]), shown])

    @staticmethod
    def close_writers(writers: dict[str, Any], state: Any = None, **env: Any) -> None:
        (Path(state["shard_dir"]) / "kinds.json").write_text(json.dumps(state["records"]))

    def merge(self, shard_dirs: list[Path]) -> Any:
        """What all shards noted."""
        return [one for each in shard_dirs for one in json.loads((each / "kinds.json").read_text())]


class Appending(BaseRunner):
    """Promises what lets a shard go on."""

    append_only = True

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        compute(idx, env)
        return idx

    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        return {"nested": {"text": (shard_dir / "text").open("a", encoding="utf-8")}}

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        writers["nested"]["text"].write(f"{result} half")
        if result == env.get("tearing") and not Path(env["folder"], MENDED).exists():
            raise OSError("the disk is full")
        writers["nested"]["text"].write(" line\n")

    @staticmethod
    def close_writers(writers: dict[str, Any], *args: Any, **env: Any) -> None:
        writers["nested"]["text"].close()

    def merge(self, shard_dirs: list[Path]) -> str:
        """All lines."""
        assert self.output_dir is not None
        concatenate_shard_files(shard_dirs, "text", self.output_dir / "text")
        return (self.output_dir / "text").read_text(encoding="utf-8")
