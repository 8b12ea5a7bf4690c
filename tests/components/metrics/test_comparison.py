import pytest
import torch

from components.metrics import comparison
from components.nn import pixels
from components.nn.lpips import LPIPS


def clips(count, seed, frames=4):
    return torch.randint(0, 256, (count, frames, 3, 32, 32), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.fixture
def judge():
    torch.manual_seed(0)
    net = LPIPS("alex", 2)
    for head in net.heads:
        head.copy_(torch.rand_like(head))
    return net


def test_every_prediction_is_compared_with_its_own_truth_as_one_by_one(judge):
    truth, predicted = clips(2, 1), clips(6, 2)
    found = comparison.compare(predicted, truth, judge)
    again = truth.repeat_interleave(3, dim=0)
    numbers = found.means(1)
    assert numbers["psnr"] == pytest.approx(float(pixels.psnr(predicted, again).mean()), rel=1e-6)
    assert numbers["ssim"] == pytest.approx(float(pixels.ssim(predicted, again).mean()), rel=1e-6)
    alone = judge(predicted[4, 2:3].float() / 127.5 - 1, truth[1, 2:3].float() / 127.5 - 1)
    assert float(found.lpips[4, 2]) == pytest.approx(float(alone), rel=1e-4)


def test_a_window_is_what_a_look_at_its_frames_alone_gives(judge):
    truth, predicted = clips(2, 1), clips(2, 2)
    part = comparison.compare(predicted, truth, judge).window(slice(1, 3)).means(1)
    assert part == pytest.approx(comparison.compare(predicted[:, 1:3], truth[:, 1:3], judge).means(1), rel=1e-5)


def test_the_best_of_several_is_told_beside_the_mean(judge):
    truth, predicted = clips(2, 1), clips(4, 2)
    predicted[1] = truth[0]
    told = comparison.compare(predicted, truth, judge).means(2)
    assert told["ssim_best"] > told["ssim"]
    assert told["lpips_best"] < told["lpips"]
