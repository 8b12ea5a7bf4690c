import torch

from components.models.canvasmar.temporal_vit import TemporalConfig, TemporalViT


def temporal(window: int = 8, layers: int = 2) -> TemporalViT:
    torch.manual_seed(0)
    return TemporalViT(
        TemporalConfig(width=16, heads=2, layers=layers, norm_first=False, window=window), (3, 4, 6)
    ).eval()


def clips(frames: int = 5) -> torch.Tensor:
    return torch.randn(2, frames, 3, 4, 6, generator=torch.Generator().manual_seed(1))


def test_a_frame_has_a_quarter_as_many_tokens_as_the_latents_have_places() -> None:
    assert temporal().tokens == 6
    assert temporal()(clips()).shape == (2, 6, 6, 16)


def test_before_the_first_frame_z_t_knows_nothing() -> None:
    model = temporal()
    first = model(clips())[:, 0]
    torch.testing.assert_close(first[0], first[1])
    torch.testing.assert_close(first, model(clips() + 1)[:, 0])


def test_a_shorter_clip_gives_the_beginning_of_what_a_longer_one_gives() -> None:
    model = temporal()
    torch.testing.assert_close(model(clips()[:, :2]), model(clips())[:, :3], atol=1e-5, rtol=1e-5)


def test_frames_remembered_together_are_frames_remembered_one_by_one() -> None:
    model = temporal()
    together, one_by_one = model.remember(clips(), None), None
    for frame in clips().split(1, dim=1):
        one_by_one = model.remember(frame, one_by_one)
    assert one_by_one is not None
    assert together.frames == one_by_one.frames == 5
    assert torch.equal(together.z_t, one_by_one.z_t)
    assert torch.equal(together.last, clips()[:, -1])


def test_one_memory_serves_two_futures() -> None:
    model = temporal()
    memory = model.remember(clips()[:, :3], None)
    first = model.remember(clips()[:, 3:4], memory)
    second = model.remember(clips()[:, 4:5], memory)
    again = model.remember(clips()[:, 3:4], memory)
    assert torch.equal(first.z_t, again.z_t)
    assert not torch.allclose(first.z_t, second.z_t)


def test_the_same_frame_at_another_time_is_another_thing() -> None:
    model = temporal(layers=1, window=1)
    still = clips(1).expand(-1, 6, -1, -1, -1)
    states = model(still)
    assert not torch.allclose(states[:, 4], states[:, 5])


def test_a_long_video_forgets_what_lies_before_its_window() -> None:
    model, changed = temporal(layers=1, window=3), clips(9)
    changed[:, 0] += 1
    before, after = model.remember(clips(9), None), model.remember(changed, None)
    assert before.frames == 9
    assert torch.equal(before.z_t, after.z_t)
