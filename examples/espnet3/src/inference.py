"""Provider and runner of the stage `infer`: what a worker imports."""

from __future__ import annotations

import json
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketsphinx import Decoder

from espnet3.parallel import BaseRunner, InferenceProvider, concatenate_shard_files

FIELDS = ("hyp", "ref", "words")


class LibriVoxProvider(InferenceProvider):
    """The recordings of a test set with what is said in them, and PocketSphinx."""

    @staticmethod
    def build_dataset(config: Any) -> list[dict[str, Any]]:
        """The utterances of the test set that `config.test_set` names, in order."""
        folder = Path(config.dataset.data_dir)
        lines = (folder / "transcripts.tsv").read_text().splitlines()
        [chosen] = [each for each in config.dataset.test if each.name == config.test_set]
        utterances = []
        for line in sorted(lines)[chosen.start : chosen.stop]:
            utt_id, text = line.split("\t")
            utterances.append({"utt_id": utt_id, "speech": folder / f"{utt_id}.wav", "text": text})
        return utterances

    @staticmethod
    def build_model(config: Any) -> Decoder:
        """Load the US-English model that comes with PocketSphinx."""
        return Decoder(**config.inference.model)


class ScpRunner(BaseRunner):
    """Recognises utterances, and writes `<field>.scp`: a key and a value on each line.

    Where each word begins and ends is a file for each utterance, whose path is the value.
    """

    @staticmethod
    def forward(
        idx: int, dataset: list[dict[str, Any]], model: Decoder, **env: Any
    ) -> dict[str, Any]:
        """Recognise one utterance; what is returned goes to `write_record` as it is."""
        utterance = dataset[idx]
        with wave.open(str(utterance["speech"])) as audio:
            samples = audio.readframes(audio.getnframes())
        model.reinit_feat()  # forget the utterance before
        model.start_utt()
        model.process_raw(samples, full_utt=True)
        model.end_utt()
        best = model.hyp()
        return {
            "utt_id": utterance["utt_id"],
            "hyp": best.hypstr if best else "",
            "ref": utterance["text"],
            "words": [(s.word, s.start_frame, s.end_frame) for s in model.seg()] if best else [],
        }

    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        """An `.scp` for each field, and a folder for the times of words."""
        (shard_dir / "words").mkdir()
        files = {name: (shard_dir / f"{name}.scp").open("w") for name in FIELDS}
        return {**files, "folder": shard_dir / "words"}

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Mapping[str, Any], state: dict[str, Any], **env: Any
    ) -> None:
        """Write an utterance's fields."""
        key = result["utt_id"]
        times = writers["folder"] / f"{key}.json"
        times.write_text(json.dumps(result["words"]))
        for field, value in (("hyp", result["hyp"]), ("ref", result["ref"]), ("words", times)):
            writers[field].write(f"{key} {value}\n")

    def merge(self, shard_dirs: list[Path]) -> dict[str, str]:
        """Make one `.scp` of those of all shards, where the next stage looks for it.

        Returns:
            Where each of them is.
        """
        folder = shard_dirs[0].parent
        for field in FIELDS:
            concatenate_shard_files(shard_dirs, f"{field}.scp", folder / f"{field}.scp")
        return {field: str(folder / f"{field}.scp") for field in FIELDS}
