import math

import pytest
import torch

from components.errors import InputError
from components.metrics import pictures, scoring
from components.nn.lpips import LPIPS
from tests.components.metrics.test_fvd import protocol


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
def judge(net):
    """Scores by features that are means of colours, which take no time."""
    truth = clips(4, 1)
    return scoring.Judge(
        protocol(clips=4, resamples=0, window=8),
        truth[:, :1],
        truth,
        lambda given, label: given.float().mean(dim=(3, 4)).flatten(1),
        net,
    )


def test_clips_of_another_shape_or_number_are_one_sentence(judge):
    with pytest.raises(InputError, match=r"short: .*\(15, 3, 32, 32\) cannot be scored against.*\(16, 3, 32, 32\)"):
        judge.score("short", clips(4, 2, frames=15))
    with pytest.raises(InputError, match=r"others: .*cannot be scored against"):
        judge.score_others("others", clips(4, 2)[:, :1], clips(4, 2, frames=15))
    with pytest.raises(InputError, match="odd: 6 predictions of 4 contexts"):
        judge.score("odd", clips(6, 2))


def test_the_truth_itself_has_no_distance_and_finite_numbers(judge):
    found = judge.score("truth", judge.truth)
    assert found.line["fvd"] == pytest.approx(0, abs=1e-6)
    assert found.line["frame_distance"] == pytest.approx(0, abs=1e-6)
    assert found.line["psnr"] == 100
    assert (found.line["motion_ratio"], found.line["frozen"]) == (1, 0)


def test_videos_of_one_colour_have_finite_scores(net):
    still = torch.full((4, 16, 3, 32, 32), 90, dtype=torch.uint8)
    judge = scoring.Judge(
        protocol(clips=4, resamples=0),
        still[:, :1],
        still,
        lambda given, label: given.float().mean(dim=(3, 4)).flatten(1),
        net,
    )
    for other in (still, still + 30):
        line = judge.score("still", other).line
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))
        assert "motion_ratio" not in line


def test_windows_too_short_for_fvd_have_a_frame_distance_of_their_own_frames(judge):
    predicted = judge.truth.clone()
    predicted[:, 8:] = clips(4, 3)[:, 8:] // 2
    first, second = judge.score("worse", predicted).windows
    assert "fvd" not in first
    assert first["frame_distance"] == pytest.approx(0, abs=1e-6)
    assert second["frame_distance"] > 1e-5  # of a network with small random weights
    seen = [pictures.embeddings(one[:, 8:], judge.lpips) for one in (judge.truth, predicted)]
    assert second["frame_distance"] == pytest.approx(pictures.distance(*seen), rel=1e-4)
