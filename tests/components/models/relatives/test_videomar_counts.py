"""The paper's transformer on the meta device: 36 blocks of width 1536 with 24 heads, MAR's head of width 1024."""

import torch

from components.models.conditions.interface import CaptionConfig, TextConfig
from components.models.flow_head import FlowHeadConfig
from components.models.masking import MaskConfig
from components.models.relatives.video_transformer import VideoTransformerConfig
from components.models.relatives.videomar import VideoMAR, VideoMARConfig

WIDTH, LAYERS = 1536, 36


TEXT = TextConfig(kind="text", encoder="Qwen/Qwen2-1.5B", tokens=300, numbers=1536, drop=0.1)


def paper(condition: CaptionConfig | None = None) -> VideoMAR:
    config = VideoMARConfig(
        kind="videomar",
        condition=condition,
        latent=(16, 30, 48),  # 480 x 768 pixels at Cosmos's stride of 16
        decoder=VideoTransformerConfig(width=WIDTH, heads=24, layers=LAYERS, norm_first=False, extent=(13, 48, 80)),
        head=FlowHeadConfig(width=1024, layers=3, repeats=4, preconditioned=False),
        mask=MaskConfig(mean=1.0, std=0.25, low=0.7),
    )
    with torch.device("meta"):
        return config.build()


def test_the_papers_transformer_has_as_many_parameters_as_counted_by_hand() -> None:
    model = paper()
    block = 12 * WIDTH**2 + 13 * WIDTH  # attention 4 d^2, MLP 8 d^2; biases 9 d, two LayerNorms 4 d
    decoder = LAYERS * block + 17 * WIDTH + 2 * WIDTH  # and the embedding of 16 channels, and the last LayerNorm
    assert sum(p.numel() for p in model.decoder.parameters()) == decoder
    assert sum(p.numel() for p in model.parameters()) == 1_041_784_848


def test_with_its_text_the_paper_has_as_many_as_counted_by_hand_about_1_4_billion() -> None:
    cross = LAYERS * (4 * WIDTH**2 + 4 * WIDTH + 2 * WIDTH)  # queries, keys, values, projection, and a LayerNorm
    text = WIDTH**2 + WIDTH + 300 * WIDTH  # the embedding of hidden states, and the learned text that stands for none
    total = sum(p.numel() for p in paper(TEXT).parameters())
    assert total == 1_041_784_848 + cross + text == 1_384_676_880
    assert round(total / 1e9, 1) == 1.4
