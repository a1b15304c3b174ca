"""Recognise LibriVox utterances with PocketSphinx: what a worker imports."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any, NamedTuple

from pocketsphinx import Decoder

from espnet3.parallel import BaseRunner, InferenceProvider

HERE = Path(__file__).resolve().parent


class Utterance(NamedTuple):
    """One recording: its id and where it is."""

    id: str
    wav: Path


class LibriVox(InferenceProvider):
    """Builds the dataset and the model. This happens on the worker, so neither is ever pickled."""

    @staticmethod
    def build_dataset(config: Any) -> list[Utterance]:
        """List all recordings of the folder `config.data`, in an order that never changes."""
        folder = HERE / config.data  # from any current folder; an absolute path stays as it is
        recordings = [Utterance(wav.stem, wav) for wav in sorted(folder.glob("*.wav"))]
        if not recordings:
            raise FileNotFoundError(f"{folder}: no *.wav in it")
        return recordings

    @staticmethod
    def build_model(config: Any) -> Decoder:
        """Load the US-English model that comes with PocketSphinx."""
        return Decoder(**config.decoder)


class Recognise(BaseRunner):
    """Turns the index of an utterance into its words."""

    @staticmethod
    def forward(
        idx: int, *, dataset: list[Utterance], model: Decoder, **env: Any
    ) -> dict[str, str]:
        """Recognise one utterance.

        Args:
            idx: its position in the dataset.
            dataset: what `build_dataset` returned.
            model: what `build_model` returned.
            **env: further entries of the environment; there are none here.

        Returns:
            A JSON value, which is what a worker stores: the utterance's id and its words.
        """
        utterance = dataset[idx]
        with wave.open(str(utterance.wav)) as audio:
            samples = audio.readframes(audio.getnframes())
        model.reinit_feat()  # forget the utterance before: which one that was depends on the mode
        model.start_utt()
        model.process_raw(samples, full_utt=True)
        model.end_utt()
        best = model.hyp()
        return {"id": utterance.id, "hypothesis": best.hypstr if best else ""}
