"""The paper's symbols, our names, and every axis letter.

| paper | here | what it is |
|---|---|---|
| f^(i) | `latents[:, i]` | a latent frame, standardised |
| x_j^(i) | `x` | token j of frame i: a patch of its latents |
| z_t | `z_t` | what the Temporal ViT knows of the past, n/4 tokens a frame |
| z_c | `z_c` | the canvas embedding, n tokens a frame |
| z | `z` | the Spatial MAR's embedding of each token, which conditions the flow head |
| s, s-hat | `staticness` | exp(-canvas error) of a token, and its prediction |
| r, r' | `frame_noise`, `canvas_noise` | strengths of the noise on the last frame (Eq. 11) and on z_c (Eq. 12) |
| w_t, w_s | `temporal`, `canvas` (scales) | guidance on the past and on the canvas (Eq. 9) |
| K, n_k | `sets`, set sizes | autoregressive steps in a frame, and the tokens chosen at each |
| tau | `temperature` | of the motion-aware order |
| sigma, v | `time`, `velocity` | position on the rectified-flow path and the direction along it |
"""

from typing import Final

AXES: Final[dict[str, str]] = {
    "b": "batch",
    "f": "pixel frames",
    "t": "latent frames",
    "c": "channels",
    "h": "height",
    "w": "width",
    "n": "tokens of a frame, patch 1",
    "m": "tokens of a frame in the Temporal ViT, patch 2: n / 4",
    "d": "width of the embeddings",
    "l": "tokens of a sequence",
    "r": "rows: the frames of all clips of a batch that are predicted",
    "k": "chosen tokens of a frame",
    "v": "visible tokens of a frame",
    "p": "numbers of a token",
    "g": "frames predicted together",
    "a": "repeats of a token in the flow loss",
    "s": "sets of tokens, one after the other",
    "e": "heads of attention",
    "i": "numbers in a head of attention, or in any input",
    "o": "numbers in any output",
    "q": "bins of a picture or rows of a table",
}
