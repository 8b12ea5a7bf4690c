"""A language model as small as one can be, in a folder as transformers keeps them."""

from pathlib import Path

import torch


def write_qwen2(folder: Path) -> Path:
    """A Qwen2 of random weights that reads letter by letter, with 16 numbers a hidden state."""
    import transformers
    from tokenizers.pre_tokenizers import ByteLevel

    letters = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]  # every letter is a token
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.Qwen2Config(vocab_size=len(letters), num_hidden_layers=2, **size)
    transformers.Qwen2Model(config).save_pretrained(folder)
    return folder
