"""The paper's symbols, their names in the code, and the letters of all tensor axes.

| paper | code | meaning |
|---|---|---|
| f^(i) | `latents[:, i]` | a latent frame, standardised |
| x_j^(i) | `x` | token j of frame i: a patch of its latents |
| z_t | `z_t` | the Temporal ViT's embedding of the past frames, n/4 tokens per frame |
| z_c | `z_c` | the canvas embedding, n tokens per frame |
| z | `z` | the Spatial MAR's embedding of each token, which conditions the flow head |
| s, s-hat | `staticness` | exp(-canvas error) of a token, and its prediction |
| r, r' | `frame_noise`, `canvas_noise` | strengths of the noise on the last frame (Eq. 11) and on z_c (Eq. 12) |
| w_t, w_s | `temporal_scale`, `canvas_scale` | guidance scales of the history and of the canvas (Eq. 9) |
| K, n_k | `sets`, set sizes | autoregressive steps per frame, and the number of tokens generated at each |
| tau | `temperature` | temperature of the motion-aware order |
| sigma, v | `time`, `velocity` | position on the rectified-flow path, and the velocity there |
"""

from typing import Final

AXES: Final[dict[str, str]] = {
    "b": "batch",
    "f": "pixel frames",
    "t": "latent frames",
    "c": "channels",
    "h": "height",
    "w": "width",
    "n": "tokens of a frame, patch size 1",
    "m": "tokens of a frame in the Temporal ViT, patch size 2: n / 4",
    "d": "width of the embeddings",
    "l": "tokens of a sequence",
    "r": "rows: the predicted frames of all clips of a batch",
    "k": "selected tokens of a frame, such as masked tokens or those of one set",
    "v": "visible tokens of a frame",
    "p": "channels of a token",
    "g": "frames predicted together",
    "a": "repeats of a token in the flow loss",
    "s": "sets of tokens, generated one after the other",
    "e": "attention heads",
    "i": "channels of an attention head, or of any input",
    "o": "channels of any output",
    "q": "bins of an image, or rows of a table",
}
