import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.foundation.randomness import Stream
from components.models.masking import visible_grid
from components.nn.losses import Losses
from components.training import validation
from components.training.loop import Data, Training
from tests.behaviour import families
from tests.behaviour.conftest import LATENT, tiny_config
from tests.components.training.test_loop import recipe

GRID = (0, 2, 4, 8, 12)


class Masked(nn.Module):
    """A model whose flow loss is the number of hidden tokens and its clip."""

    visible_grid = GRID

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, tuple[int, ...]]] = []

    def draw(self, batch: Tensor, stream: Stream, visible: int | None = None) -> int:
        assert visible is not None
        self.seen.append((visible, stream.samples))
        return visible

    def forward(self, batch: Tensor, draws: int) -> Losses:
        return Losses.weighted({"flow": batch.mean() + 16 - draws + 0 * self.weight.sum()}, {"flow": 1.0})


def data(sizes: tuple[int, ...]) -> Data:
    ends = list(itertools.accumulate(sizes, initial=0))
    return Data(nothing, [(tuple(range(a, b)), torch.zeros(b - a, 2)) for a, b in itertools.pairwise(ends)])


def nothing(start: int) -> Iterator[Any]:
    return iter(())


def trained(**changes: Any) -> Training:
    return Training(Masked(), lambda model: model, recipe(**changes))


def test_a_grid_goes_from_no_visible_token_to_three_quarters_without_doubles_and_hides_some_always() -> None:
    assert visible_grid(64) == (0, 8, 16, 32, 48)
    assert visible_grid(1024) == (0, 128, 256, 512, 768)
    assert visible_grid(4) == (0, 1, 2, 3)
    assert visible_grid(1) == (0,)


@pytest.mark.parametrize("micro_batch", [None, 1, 3])
def test_every_number_of_visible_tokens_is_validated_and_the_curve_shows_what_it_does(micro_batch: int | None) -> None:
    whole = trained(micro_batch=micro_batch)
    found = whole.validate(data((4, 4)))
    curve = {name: value for name, value in found.items() if "visible" in name}
    assert curve == {f"validation_flow_visible_{visible:03d}": pytest.approx(16 - visible) for visible in GRID}
    assert sorted(curve) == list(curve)
    assert found["validation_flow"] == found["validation_loss"] == pytest.approx(16 - sum(GRID) / 5)
    assert found["validation_raw_flow"] == pytest.approx(16 - sum(GRID) / 5)


def test_averaged_weights_see_each_clip_at_each_number_and_raw_ones_each_clip_once() -> None:
    whole = trained()
    whole.validate(data((4, 4, 3)))
    assert isinstance(whole.model, Masked)
    pairs = [(visible, sample) for visible, samples in whole.model.seen for sample in samples]
    every, dealt = pairs[: 5 * 11], pairs[5 * 11 :]
    assert sorted(every) == sorted(itertools.product(GRID, range(11)))
    assert sorted(sample for _, sample in dealt) == list(range(11))
    counts = [sum(visible == one for visible, _ in dealt) for one in GRID]
    assert max(counts) - min(counts) <= 1


def test_too_few_clips_for_the_grid_are_seen_at_each_number_by_both() -> None:
    found = trained().validate(data((2, 1)))
    assert found["validation_raw_flow"] == found["validation_flow"] == pytest.approx(16 - sum(GRID) / 5)


def test_points_of_the_grid_count_alike_whatever_the_clips() -> None:
    means = validation.MeanLosses()
    for visible, loss, clips in ((0, 6.0, 1), (8, 2.0, 3)):
        means.add(visible, Losses.weighted({"flow": torch.tensor(loss)}, {"flow": 1.0}), clips)
    assert means.mean_over_grid("") == {"loss": 4.0, "flow": 4.0}


def test_without_clips_there_are_no_numbers() -> None:
    assert trained().validate(data(())) == {}


@pytest.mark.parametrize("kind", ["canvas", "magi", "videomar"])
def test_models_with_masks_validate_over_their_grid_and_the_same_every_time(kind: str) -> None:
    torch.manual_seed(0)
    model = tiny_config().build() if kind == "canvas" else families.tiny(kind)
    whole = Training(model, lambda model: model, recipe())
    clips = torch.randn(6, 4, *LATENT, generator=torch.Generator().manual_seed(2))
    held = Data(nothing, [((0, 1, 2), clips[:3]), ((3, 4, 5), clips[3:])])
    found = whole.validate(held)
    tokens = LATENT[1] * LATENT[2]
    assert [name for name in found if "visible" in name] == [
        f"validation_flow_visible_{visible:03d}" for visible in visible_grid(tokens)
    ]
    assert whole.validate(held) == found
    drawn = model.draw(clips, whole.stream(tuple(range(6)), "validation"), visible=5)
    assert drawn.visible == 5  # type: ignore[union-attr]


def test_a_model_without_masks_is_validated_once() -> None:
    whole = Training(families.tiny("full_frame"), lambda model: model, recipe())
    clips = torch.randn(2, 4, *LATENT, generator=torch.Generator().manual_seed(2))
    found = whole.validate(Data(nothing, [((0, 1), clips)]))
    assert not any("visible" in name for name in found)
    assert found["validation_raw_loss"] == pytest.approx(found["validation_loss"])


def test_videomars_targets_are_dealt_over_the_batches_evenly() -> None:
    model, clips = families.tiny("videomar"), torch.randn(1, 9, *LATENT)
    stream = Stream.of(0, (0,)).fork("validation")
    targets = [model.draw(clips, stream.for_batch(index)).target for index in range(16)]  # type: ignore[union-attr]
    assert sorted(targets) == sorted([*range(1, 9), *range(1, 9)])
    assert max(targets[:2]) > 4
