"""Encode texts as hidden states of a language model; the only module that uses transformers (the extra `text`)."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from components.foundation.config import Config
from components.foundation.errors import InputError
from components.foundation.settings.ranges import Count


class TextEncoderConfig(Config):
    """Settings of the text encoder."""

    encoder: str  # a local folder or a model id of the Hugging Face hub, such as Qwen/Qwen2-1.5B (VideoMAR's)
    tokens: Count  # maximum length of a text; longer texts are truncated (VideoMAR: 300)


class TextEncoder:
    """A frozen encoder with its tokenizer."""

    def __init__(self, config: TextEncoderConfig, device: str | torch.device) -> None:
        """Load the encoder. Raises InputError if transformers is not installed or cannot load the encoder."""
        try:
            from transformers import AutoModel, AutoTokenizer
        except ModuleNotFoundError:
            raise InputError(
                "captions need the package transformers; install the extra: pip install '.[text]'"
            ) from None
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(config.encoder)
            model: Any = AutoModel.from_pretrained(config.encoder, dtype=torch.float32)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{config.encoder} is not a text encoder ({reason}); name a local folder or a model of the hub"
            ) from None
        self.model = model.requires_grad_(False).eval().to(device)
        self.config, self.device = config, device

    @property
    def identity(self) -> str:
        """Encoder hash: depends on the weights, the tokenizer's vocabulary and the maximum length."""
        digest = hashlib.sha256(f"{self.config.tokens} {sorted(self.tokenizer.get_vocab().items())}".encode())
        for name, weight in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @property
    def channels(self) -> int:
        """Number of channels of a hidden state."""
        return int(self.model.config.hidden_size)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "b l i"]:
        """Return the last hidden state of every token, on the CPU. Positions after a text's end are zeros."""
        states = torch.zeros(len(texts), self.config.tokens, self.channels)
        for row, text in enumerate(texts):  # one by one, because padding would change the last digits
            ids = self.tokenizer(text, truncation=True, max_length=self.config.tokens)["input_ids"]
            if ids:
                hidden = self.model(input_ids=torch.tensor([ids], device=self.device)).last_hidden_state[0]
                states[row, : len(ids)] = hidden.float().cpu()
        return states
