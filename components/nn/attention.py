"""Attention over a sequence, with a frame-causal mask for training and a memory for one frame at a time."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.nn.rotary import rotate


@dataclass(frozen=True, slots=True)
class KeysValues:
    """What one layer remembers of the tokens that it has seen: a value, never changed in place."""

    keys: Float[Tensor, "b e l i"]
    values: Float[Tensor, "b e l i"]

    def append(self, keys: Float[Tensor, "b e k i"], values: Float[Tensor, "b e k i"]) -> "KeysValues":
        """The memory with these tokens behind it."""
        return KeysValues(torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2))

    def last(self, tokens: int) -> "KeysValues":
        """The memory of the newest tokens only."""
        first = max(self.keys.shape[2] - tokens, 0)
        return KeysValues(self.keys[:, :, first:], self.values[:, :, first:])


def frame_causal(frames: int, tokens: int, device: torch.device, window: int | None = None) -> Bool[Tensor, "l l"]:
    """Which token may attend to which: all of its own frame and of the frames before, none of those after.

    With a window only so many frames, its own among them.
    """
    frame = torch.arange(frames, device=device).repeat_interleave(tokens)
    ago = frame[:, None] - frame[None, :]
    return (ago >= 0) & (ago < (frames if window is None else window))


def complete_forcing(frames: int, tokens: int, device: torch.device) -> Bool[Tensor, "l l"]:
    """Which token may attend to which where so many clean frames stand before as many masked ones, each the next.

    Clean frames see one another as in `frame_causal`; masked frame j, which follows clean frame j, sees the clean
    frames up to that one, and of the masked frames itself alone (MAGI's complete teacher forcing).
    """
    causal = frame_causal(frames, tokens, device)
    above = torch.cat([causal, torch.zeros_like(causal)], dim=1)
    return torch.cat([above, torch.cat([causal, causal & causal.T], dim=1)])


def attend(
    queries: Float[Tensor, "b e k i"],
    keys: Float[Tensor, "b e l i"],
    values: Float[Tensor, "b e l i"],
    mask: Bool[Tensor, "k l"] | None = None,
) -> Float[Tensor, "b e k i"]:
    """Scaled dot-product attention; where the mask is false, a query does not see a key."""
    if queries.device.type == "cpu" and queries.dtype == torch.bfloat16 and torch.is_grad_enabled():
        # the fused kernel's backward pass in bfloat16 takes five times as long on a CPU as three plain operations
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

    def forward(self, x: Float[Tensor, "b l d"], mask: Bool[Tensor, "l l"] | None = None) -> Float[Tensor, "b l d"]:
        """Every token attends to every token that the mask allows."""
        queries, keys, values = self.heads_of(self.qkv(x))
        return self.project(merge(attend(queries, keys, values, mask)))

    def extend(
        self,
        x: Float[Tensor, "b k d"],
        past: KeysValues | None,
        mask: Bool[Tensor, "k l"] | None = None,
        angle: Float[Tensor, "... k o"] | None = None,
    ) -> tuple[Float[Tensor, "b k d"], KeysValues]:
        """New tokens attend to the past and to one another; the memory that comes back holds them too.

        `mask` says which of all tokens, those of the past first, a new token sees; `angle` is its rotary position.
        """
        queries, keys, values = self.heads_of(self.qkv(x))
        if angle is not None:
            queries, keys = rotate(queries, angle), rotate(keys, angle)
        memory = KeysValues(keys, values) if past is None else past.append(keys, values)
        return self.project(merge(attend(queries, memory.keys, memory.values, mask))), memory

    def heads_of(self, qkv: Float[Tensor, "b l o"]) -> tuple[Float[Tensor, "b e l i"], ...]:
        """Queries, keys and values of each head."""
        return tuple(rearrange(qkv, "b l (a e i) -> a b e l i", a=3, e=self.heads).unbind(0))


def merge(x: Float[Tensor, "b e l i"]) -> Float[Tensor, "b l d"]:
    """The heads of each token side by side."""
    return rearrange(x, "b e l i -> b l (e i)")
