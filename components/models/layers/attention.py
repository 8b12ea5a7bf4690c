"""Self-attention with frame-causal masks for training and a key-value cache for sampling frame by frame."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.models.layers.embeddings import rotate


@dataclass(frozen=True, slots=True)
class KeyValueCache:
    """Immutable key-value cache of one attention layer."""

    keys: Float[Tensor, "b e l i"]
    values: Float[Tensor, "b e l i"]

    def append(self, keys: Float[Tensor, "b e k i"], values: Float[Tensor, "b e k i"]) -> "KeyValueCache":
        """Return a new cache with the keys and values of further tokens appended."""
        return KeyValueCache(torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2))

    def last(self, tokens: int) -> "KeyValueCache":
        """Return a new cache that holds only the newest `tokens` tokens."""
        first = max(self.keys.shape[2] - tokens, 0)
        return KeyValueCache(self.keys[:, :, first:], self.values[:, :, first:])


def frame_causal(frames: int, tokens: int, device: torch.device, window: int | None = None) -> Bool[Tensor, "l l"]:
    """Return the attention mask in which a token attends to its own frame and all earlier frames, but no later frame.

    With a window, a token attends only to the last `window` frames, its own included. Entry (i, j) is true if token i
    may attend to token j.
    """
    frame = torch.arange(frames, device=device).repeat_interleave(tokens)
    age = frame[:, None] - frame[None, :]
    return (age >= 0) & (age < (frames if window is None else window))


def complete_teacher_forcing(frames: int, tokens: int, device: torch.device) -> Bool[Tensor, "l l"]:
    """Return the attention mask of MAGI's complete teacher forcing: `frames` clean frames, then `frames` masked frames.

    Masked frame j is the prediction that follows clean frame j. Clean frames attend to clean frames as in
    `frame_causal`. Masked frame j attends to clean frames 0 to j and, among the masked frames, only to itself.
    """
    causal = frame_causal(frames, tokens, device)
    clean_rows = torch.cat([causal, torch.zeros_like(causal)], dim=1)
    return torch.cat([clean_rows, torch.cat([causal, causal & causal.T], dim=1)])


def attend(
    queries: Float[Tensor, "b e k i"],
    keys: Float[Tensor, "b e l i"],
    values: Float[Tensor, "b e l i"],
    mask: Bool[Tensor, "k l"] | None = None,
) -> Float[Tensor, "b e k i"]:
    """Scaled dot-product attention; a query attends to a key where the mask is true."""
    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16 and torch.is_grad_enabled():
        # on a CPU the backward pass of the fused bfloat16 kernel takes five times as long as three plain operations
        scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(dim=-1) @ values
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


class Attention(nn.Module):
    """Multi-head self-attention with biases and no normalisation of queries and keys, as in NOVA."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b l d"], mask: Bool[Tensor, "k l"] | None = None, first: int = 0
    ) -> Float[Tensor, "b k d"]:
        """Return the attention output of the tokens from `first` on, over all tokens that the mask allows."""
        queries, keys, values = self.split_heads(self.qkv(x))
        return self.project(merge_heads(attend(queries[:, :, first:], keys, values, mask)))

    def extend(
        self,
        x: Float[Tensor, "b k d"],
        past: KeyValueCache | None,
        mask: Bool[Tensor, "k l"] | None = None,
        angle: Float[Tensor, "... k o"] | None = None,
    ) -> tuple[Float[Tensor, "b k d"], KeyValueCache]:
        """Return the attention output of new tokens and the cache extended by them.

        New tokens attend to the cached tokens and to one another. The l columns of `mask` are the cached tokens, then
        the new tokens. `angle` holds the rotary positions of the new tokens.
        """
        queries, keys, values = self.split_heads(self.qkv(x))
        if angle is not None:
            queries, keys = rotate(queries, angle), rotate(keys, angle)
        memory = KeyValueCache(keys, values) if past is None else past.append(keys, values)
        return self.project(merge_heads(attend(queries, memory.keys, memory.values, mask))), memory

    def split_heads(self, qkv: Float[Tensor, "b l o"]) -> tuple[Float[Tensor, "b e l i"], ...]:
        """Split the projection into the queries, keys and values of each head."""
        return tuple(rearrange(qkv, "b l (a e i) -> a b e l i", a=3, e=self.heads).unbind(0))


def merge_heads(x: Float[Tensor, "b e l i"]) -> Float[Tensor, "b l d"]:
    """Concatenate the heads of each token."""
    return rearrange(x, "b e l i -> b l (e i)")
