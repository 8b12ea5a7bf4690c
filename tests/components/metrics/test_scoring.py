import math

import pytest
import torch

from components.foundation.errors import InputError
from components.metrics import scoring
from components.metrics.distances import frechet
from components.nn.lpips import LPIPS
from tests.components.metrics.distances.test_fvd import protocol


def clips(count, seed, frames=16):
    return torch.randint(0, 256, (count, frames, 3, 32, 32), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    found = LPIPS("alex", 5)
    for head in found.heads:
        head.copy_(torch.rand_like(head))
    return found


@pytest.fixture
def scorer(net):
    """Scores by features that are means of colours, which take no time."""
    truth = clips(4, 1)
    return scoring.Scorer(
        protocol(clips=4, resamples=0, window=8),
        truth[:, :1],
        truth,
        lambda given, label: given.float().mean(dim=(3, 4)).flatten(1),
        net,
    )


def test_clips_of_another_shape_or_number_are_one_sentence(scorer):
    with pytest.raises(InputError, match=r"short: .*\(15, 3, 32, 32\) cannot be scored against.*\(16, 3, 32, 32\)"):
        scorer.score("short", clips(4, 2, frames=15))
    with pytest.raises(InputError, match=r"others: .*cannot be scored against"):
        scorer.score_others("others", clips(4, 2)[:, :1], clips(4, 2, frames=15))
    with pytest.raises(InputError, match="odd: 6 predictions of 4 contexts"):
        scorer.score("odd", clips(6, 2))


def test_the_truth_itself_has_no_distance_and_finite_numbers(scorer):
    found = scorer.score("truth", scorer.truth)
    assert found.line["fvd"] == pytest.approx(0, abs=1e-6)
    assert found.line["frame_distance"] == pytest.approx(0, abs=1e-6)
    assert found.line["psnr"] == 100
    assert (found.line["motion_ratio"], found.line["frozen"]) == (1, 0)


def test_videos_of_one_colour_have_finite_scores(net):
    still = torch.full((4, 16, 3, 32, 32), 90, dtype=torch.uint8)
    scorer = scoring.Scorer(
        protocol(clips=4, resamples=0),
        still[:, :1],
        still,
        lambda given, label: given.float().mean(dim=(3, 4)).flatten(1),
        net,
    )
    for other in (still, still + 30):
        line = scorer.score("still", other).line
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))
        assert "motion_ratio" not in line


def test_windows_too_short_for_fvd_have_a_frame_distance_of_their_own_frames(scorer):
    predicted = scorer.truth.clone()
    predicted[:, 8:] = clips(4, 3)[:, 8:] // 2
    first, second = scorer.score("worse", predicted).windows
    assert "fvd" not in first
    assert first["frame_distance"] == pytest.approx(0, abs=1e-6)
    assert second["frame_distance"] > 1e-5  # of a network with small random weights
    seen = [frechet.frame_embeddings(one[:, 8:], scorer.lpips) for one in (scorer.truth, predicted)]
    assert second["frame_distance"] == pytest.approx(frechet.frame_distance(*seen), rel=1e-4)


def test_holding_the_last_frame_changes_no_still_pixel_and_every_line_and_window_tells_the_noise_of_the_truth(net):
    truth = torch.full((4, 17, 3, 32, 32), 90, dtype=torch.uint8)
    truth[:, ::2, :, :8] += 4  # noise
    truth[:, :, :, 16:] = clips(4, 5, frames=17)[:, :, :, 16:]  # motion
    scorer = scoring.Scorer(
        protocol(clips=4, resamples=0, window=8),
        truth[:, :1],
        truth[:, 1:],
        lambda given, label: given.float().mean(dim=(3, 4)).flatten(1),
        net,
    )
    held = scorer.score("held", truth[:, :1].expand_as(scorer.truth).contiguous())
    own = scorer.score("truth", scorer.truth)
    real = scorer.score_others("real", truth[:, :1], scorer.truth)
    for line in (held.line, *held.windows):
        assert line["still_change"] == 0
        assert line["still_change_truth"] == pytest.approx(4 / 2)
        assert line["form_distance"] > 0
    for line in (own.line, *own.windows):
        assert line["still_change"] == line["still_change_truth"]
        assert line["form_distance"] == 0
    assert [line["still_change"] for line in (real.line, *real.windows)] == [
        line["still_change"] for line in (own.line, *own.windows)
    ]


def test_where_all_pixels_move_nothing_is_said_of_still_ones(scorer):
    assert not {"still_change", "still_change_truth"} & scorer.score("truth", scorer.truth).line.keys()
