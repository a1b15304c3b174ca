"""An old name of `espnet3.parallel.inference_provider`."""

from espnet3.parallel.inference_provider import InferenceProvider as InferenceProvider

__all__ = ["InferenceProvider"]
