"""Texts -> hidden states of a pretrained language model, the only door to transformers (the extra `text`)."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from components.config import Config
from components.errors import InputError


class TextConfig(Config):
    """Which encoder, and how much of a text it is given."""

    encoder: str  # a local folder, or a name that transformers knows, such as Qwen/Qwen2-1.5B (VideoMAR's)
    tokens: int  # of a text; the rest is cut off (VideoMAR: 300)


class TextEncoder:
    """A frozen encoder with its tokenizer."""

    def __init__(self, config: TextConfig, device: str | torch.device) -> None:
        """Raises InputError where transformers is not installed, or there is no such encoder."""
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
            told = " ".join(str(error).split())[:160]
            raise InputError(f"{config.encoder} is no text encoder ({told}); name a folder or a known model") from None
        self.model = model.requires_grad_(False).eval().to(device)
        self.config, self.device = config, device

    @property
    def identity(self) -> str:
        """Equal weights, equal tokenizer, equal length: equal hash."""
        digest = hashlib.sha256(f"{self.config.tokens} {sorted(self.tokenizer.get_vocab().items())}".encode())
        for name, weight in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    @property
    def numbers(self) -> int:
        """Numbers of a hidden state."""
        return int(self.model.config.hidden_size)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "b l i"]:
        """The last hidden state of every token, zeros behind a text's end; an empty text is all zeros."""
        found = torch.zeros(len(texts), self.config.tokens, self.numbers)
        for row, text in enumerate(texts):  # one by one: padding would change the last digits
            ids = self.tokenizer(text, truncation=True, max_length=self.config.tokens)["input_ids"]
            if ids:
                hidden = self.model(input_ids=torch.tensor([ids], device=self.device)).last_hidden_state[0]
                found[row, : len(ids)] = hidden.float().cpu()
        return found
