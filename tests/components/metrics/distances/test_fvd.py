from dataclasses import astuple

import pytest
import torch
from torch import Tensor

from components.foundation import config
from components.foundation.errors import InputError
from components.metrics.distances import fvd, intervals

PROTOCOL = {
    "name": "short",
    "clips": 64,
    "samples": 1,
    "start": "first",
    "context": 1,
    "context_scored": False,
    "frames": 16,
    "window": None,
    "resolution": 64,
    "resamples": 16,
    "seed": 0,
}
WIDTH = 60  # as many numbers as clips, so that few clips bias the score as they do in life
SCALES = 4 / torch.arange(1, WIDTH + 1).sqrt()


def protocol(**changes: object) -> fvd.ProtocolConfig:
    return config.parse(fvd.ProtocolConfig, PROTOCOL | changes, where="params.yaml: protocols.short")


def draw(count: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, WIDTH, generator=generator, dtype=torch.float64) * SCALES * scale + shift


def standard_error(real: Tensor, fake: Tensor) -> float:
    return intervals.jackknife(fvd.leaving_out(real, fake, 16), 16).error


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("clips", 1, "it must be at least 2"),
        ("samples", 0, "it must be at least 1"),
        ("context", 0, "it must be at least 1"),
        ("frames", 8, "I3D needs at least 9 frames"),
        ("start", "second", "'first' or 'random'"),
        ("window", 1, "it must be at least 2"),
        ("window", 17, "at most as long as the frames"),
        ("resolution", 0, "it must be at least 1"),
        ("resamples", -1, "it must be at least 0"),
        ("resamples", 7, r"it must be 0 \(no interval\), or from 8 to protocol\.clips"),
        ("resamples", 65, "from 8 to protocol.clips"),
        ("seed", "one", "valid integer"),
    ],
)
def test_a_protocol_that_cannot_be_is_an_error_with_its_path_and_what_is_allowed(
    key: str, value: object, allowed: str
) -> None:
    with pytest.raises(InputError, match=rf"protocols\.short: {key} is .*{allowed}"):
        protocol(**{key: value})


def test_a_protocol_describes_all_that_a_number_depends_on() -> None:
    text = protocol(name="bair", clips=256, samples=100).describe()
    for part in ("bair", "256 test clips", "100 predictions each", "frames given: 1", "frames scored: 16", "64x64"):
        assert part in text
    for part in ("Kinetics-400", "half-pixel bilinear", "without antialiasing", "[-1, 1]", "float32", "N - 1"):
        assert part in text


def test_no_resamples_give_no_interval() -> None:
    score = fvd.score(draw(20, 1), draw(30, 2), 0)
    assert astuple(score) == (fvd.fvd(draw(20, 1), draw(30, 2)), None, None, None)


def test_the_interval_surrounds_the_value_and_repeats() -> None:
    real, fake = draw(40, 1), draw(40, 2, scale=1.5)
    score = fvd.score(real, fake, 16)
    assert score.low is not None
    assert score.high is not None
    assert 0 < score.low < score.value < score.high
    assert fvd.score(real, fake, 16) == score


def test_the_interval_of_a_set_and_itself_is_nothing() -> None:
    score = fvd.score(draw(40, 1), draw(40, 1), 16)
    assert (score.low, score.value, score.high) == pytest.approx((0, 0, 0), abs=1e-9)


@pytest.mark.parametrize(
    ("counts", "scale", "shift"),
    [
        pytest.param((64, 64), 1.0, 0.0, id="equal"),
        pytest.param((64, 64), 1.5, 0.0, id="wider"),
        pytest.param((64, 64), 1.0, 1.0, id="elsewhere"),
        pytest.param((32, 128), 1.2, 0.5, id="unlike numbers"),
    ],
)
def test_the_standard_error_is_the_spread_over_new_clips_within_30_percent(
    counts: tuple[int, int], scale: float, shift: float
) -> None:
    def sides(seed: int) -> tuple[Tensor, Tensor]:
        return draw(counts[0], 2 * seed), draw(counts[1], 2 * seed + 1, scale, shift)

    spread = float(torch.tensor([fvd.fvd(*sides(seed)) for seed in range(200)]).std())
    errors = [standard_error(*sides(seed)) for seed in range(10)]
    assert 0.7 < sum(errors) / len(errors) / spread < 1.3


def test_the_interval_holds_the_mean_score_of_other_clips_about_19_times_in_20() -> None:
    pairs = [(draw(40, 2 * seed), draw(40, 2 * seed + 1, scale=1.2, shift=0.5)) for seed in range(100)]
    mean = sum(fvd.fvd(*pair) for pair in pairs) / len(pairs)
    scores = [fvd.score(*pair, 8) for pair in pairs[:60]]
    held = sum(score.low <= mean <= score.high for score in scores if score.low is not None and score.high is not None)
    assert 0.85 <= held / len(scores) <= 1


def test_predictions_that_follow_their_clips_spread_less_than_others() -> None:
    real = draw(64, 1)
    following = real + 0.5 * draw(64, 2)
    others = following[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    assert fvd.fvd(real, following) == pytest.approx(fvd.fvd(real, others), rel=1e-9)
    assert standard_error(real, following) < 0.9 * standard_error(real, others)


def test_a_test_clip_leaves_together_with_all_its_predictions() -> None:
    # three predictions of each clip that are all the same weigh as one
    real, fake = draw(32, 1), draw(32, 2, scale=1.5)
    once = standard_error(real, fake)
    assert standard_error(real, fake.repeat_interleave(3, dim=0)) == pytest.approx(once, rel=0.05)


def test_a_side_of_fewer_clips_than_blocks_is_cut_into_single_clips() -> None:
    real, fake = draw(10, 1), draw(40, 2)
    score = fvd.score(real, fake, 16)
    assert score == fvd.score(real, fake, 10)
    assert score.low is not None


def test_a_side_of_fewer_than_eight_clips_gets_no_interval() -> None:
    score = fvd.score(draw(40, 1), draw(7, 2), 16)
    assert (score.low, score.high) == (None, None)


def test_a_difference_is_that_of_the_scores_and_of_a_set_and_itself_nothing() -> None:
    real, fake, other = draw(64, 0), draw(64, 1, shift=0.4), draw(64, 2, shift=0.5)
    found = fvd.difference(real, fake, other, 16)
    assert found.value == pytest.approx(fvd.fvd(real, fake) - fvd.fvd(real, other))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert astuple(fvd.difference(real, fake, fake, 16)) == (0, 0, 0, 0)
    assert fvd.difference(real, fake, other, 0).low is None


def test_what_two_predictions_share_does_not_widen_the_interval_of_their_difference() -> None:
    real, fake = draw(64, 0), draw(64, 1, shift=0.4)
    alike, unlike = fake + 0.1 * draw(64, 2), draw(64, 3, shift=0.4)
    widths = []
    for other in (alike, unlike):
        found = fvd.difference(real, fake, other, 16)
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)
    assert widths[0] < widths[1] / 2


def test_fewer_than_two_clips_are_an_input_error() -> None:
    with pytest.raises(InputError, match="at least 2 clips"):
        fvd.fvd(draw(1, 1), draw(40, 2))


def test_a_short_prediction_is_scored_with_its_context() -> None:
    assert protocol(context=5, context_scored=True, frames=4).frames == 4
    with pytest.raises(InputError, match="I3D needs at least 9 frames"):
        protocol(context=5, context_scored=False, frames=4)


def test_the_context_is_scored_as_it_is_before_each_of_its_predictions_or_not_at_all() -> None:
    context, predicted = torch.zeros(2, 5, 3, 2, 2, dtype=torch.uint8), torch.ones(6, 11, 3, 2, 2, dtype=torch.uint8)
    context[1] = 7
    both = fvd.scored(context, predicted, protocol(context=5, frames=11, context_scored=True))
    assert both[:, :, 0, 0, 0].tolist() == [[level] * 5 + [1] * 11 for level in (0, 0, 0, 7, 7, 7)]
    assert fvd.scored(context, predicted, protocol(context=5, frames=11)) is predicted


def test_windows_are_whole_and_follow_one_another() -> None:
    assert protocol(frames=40, window=16).windows == (slice(0, 16), slice(16, 32))
    assert protocol(frames=16, window=16).windows == (slice(0, 16),)
    assert protocol().windows == ()


def test_predictions_from_starts_of_their_own_are_not_futures_of_one_context() -> None:
    assert protocol(samples=20).futures == 20
    assert protocol(samples=20, start="random").futures == 1


def test_the_corrected_score_of_equal_distributions_is_nearer_to_zero_than_the_score() -> None:
    scores = [fvd.score(draw(96, 2 * seed), draw(96, 2 * seed + 1), 16) for seed in range(20)]
    raw = sum(score.value for score in scores) / len(scores)
    corrected = sum(score.corrected for score in scores if score.corrected is not None) / len(scores)
    assert abs(corrected) < raw / 3


def test_many_clips_are_added_up_by_blocks_to_the_same_score_and_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = draw(300, 1)[:, :12], draw(600, 2, scale=1.2)[:, :12]
    added = astuple(fvd.score(real, fake, 8))
    monkeypatch.setattr(fvd, "MIN_CLIPS_PER_DIMENSION", 10**6)
    assert astuple(fvd.score(real, fake, 8)) == pytest.approx(added, rel=1e-6)
