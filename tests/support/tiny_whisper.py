"""A Whisper of random weights: `python -m tests.support.tiny_whisper FOLDER` saves one of 160 KB.

It is loaded like a real one, and says nonsense.
"""

from __future__ import annotations

import sys
from typing import Any

END, BEGIN, NO_TIMES = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
LANGUAGES = {"en": "<|en|>"}
TASKS = {"translate": "<|translate|>", "transcribe": "<|transcribe|>"}
OTHERS = ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>"]


def main(folder: str) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizerFast,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = WhisperTokenizerFast(
        vocab={letter: number for number, letter in enumerate(letters)},
        merges=[],
        **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END),
        additional_special_tokens=[BEGIN, *LANGUAGES.values(), *TASKS.values(), *OTHERS, NO_TIMES],
    )
    number = tokenizer.convert_tokens_to_ids
    ends: dict[str, Any] = {
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), number(END)),
        "decoder_start_token_id": number(BEGIN),
    }
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    small = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 16)
    layers = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer), max_target_positions=64, **heads, **small, **layers, **ends
        )
    )
    model.generation_config = GenerationConfig(
        max_length=20,
        is_multilingual=True,
        lang_to_id={name: number(name) for name in LANGUAGES.values()},
        task_to_id={task: number(name) for task, name in TASKS.items()},
        no_timestamps_token_id=number(NO_TIMES),
        **ends,
    )
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
