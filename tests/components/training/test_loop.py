import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.nn.parallel import DistributedDataParallel

from components.foundation import checkpoint
from components.foundation.config import parse
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.nn.losses import Losses
from components.training.history import MEASURED
from components.training.loop import Data, Progress, Trainable, Training, fit
from components.training.optimizer import RecipeConfig
from tests.behaviour.conftest import LATENT, tiny_config

Batch = tuple[tuple[int, ...], Tensor]
POINTS = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))


def recipe(**changes: Any) -> RecipeConfig:
    whole = {
        "seed": 0, "steps": 12, "batch": 4, "micro_batch": None, "learning_rate": 0.05, "schedule": "cosine",
        "warmup": 3, "weight_decay": 0.1, "clip": 0.5, "ema": 0.8, "precision": "float32",
        "activation_checkpointing": False, "compile": False, "workers": 1, "parallel": "ddp",
        "log_every": 3,
        "validate_every": 6, "validation_clips": 4, "checkpoint_every": 4, "keep": 2, "new_weights": [], "phases": [],
    }  # fmt: skip
    return parse(RecipeConfig, whole | changes, where="here")


@dataclass(frozen=True, slots=True)
class Draws:
    noise: Tensor


class Linear(nn.Module):
    """Learns the sum of noisy points: chance, a buffer and two terms, all that the loop must carry."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layer = nn.Linear(3, 1)
        self.register_buffer("scale", torch.ones(()))

    def draw(self, batch: Tensor, stream: Stream) -> Draws:
        return Draws(stream.fork("noise").normal(3))

    def forward(self, batch: Tensor, draws: Draws) -> Losses:
        error = self.layer(batch + 0.1 * draws.noise).squeeze(-1) - batch.sum(-1)
        return Losses.weighted({"fit": error.square().mean(), "far": error.abs().mean()}, {"fit": 1.0, "far": 0.5})


def ids(step: int) -> tuple[int, ...]:
    return tuple((4 * step + i) % 32 for i in range(4))


def batches(start: int) -> Iterator[Batch]:
    return ((ids(step), POINTS[list(ids(step))]) for step in itertools.count(start))


DATA = Data(batches, [((30, 31), POINTS[30:])])


def weight(whole: Training) -> Tensor:
    return whole.model.get_parameter("layer.weight").detach()


def training(config: RecipeConfig, make: Callable[[], nn.Module] = Linear) -> Training:
    return Training(make(), lambda model: model, config)


def trained(config: RecipeConfig, data: Data = DATA) -> tuple[Training, list[Progress]]:
    whole = training(config)
    return whole, list(fit(whole, data))


def lasting(progress: Progress) -> dict[str, float]:
    return {name: value for name, value in progress.metrics.items() if name not in MEASURED}


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


def test_anything_that_draws_and_returns_losses_can_be_trained() -> None:
    assert isinstance(Linear(), Trainable)
    assert isinstance(tiny_config().build(), Trainable)


def test_training_goes_down_and_ends_at_the_recipes_last_step() -> None:
    whole, progress = trained(recipe(steps=120, weight_decay=0.0, clip=10.0))
    losses = [entry.metrics["loss"] for entry in progress if entry.metrics]
    assert whole.step == 120
    assert [entry.step for entry in progress] == list(range(1, 121))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("stop", [4, 8])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(stop: int, tmp_path: Any) -> None:
    whole, progress = trained(recipe())
    first = training(recipe())
    for entry in fit(first, DATA):
        if entry.step == stop:
            assert entry.state is not None
            checkpoint.save(tmp_path / "state", entry.state(), {})
            break
    second = training(recipe())
    nn.init.zeros_(weight(second))
    second.restore(checkpoint.load(tmp_path / "state", {}))
    rest = list(fit(second, DATA))
    assert equal(second.state(), whole.state())
    assert equal(second.weights(), whole.weights())
    assert [entry.step for entry in rest] == list(range(stop + 1, 13))
    assert [lasting(entry) for entry in rest] == [lasting(entry) for entry in progress[stop:]]


def test_a_finished_training_that_is_started_again_does_nothing() -> None:
    whole, _ = trained(recipe())
    assert list(fit(whole, DATA)) == []


def test_metrics_checkpoints_and_validations_come_when_they_are_due() -> None:
    _, progress = trained(recipe(steps=11, log_every=3, validate_every=4, checkpoint_every=5))
    assert [entry.step for entry in progress if "loss" in entry.metrics] == [3, 6, 9, 11]
    assert [entry.step for entry in progress if "validation_loss" in entry.metrics] == [4, 8, 11]
    assert [entry.step for entry in progress if entry.state] == [5, 10, 11]


def test_metrics_are_means_over_the_interval() -> None:
    _, each = trained(recipe(log_every=1))
    _, some = trained(recipe(log_every=3))
    for name in ("loss", "fit", "far", "gradient_norm"):
        expected = sum(entry.metrics[name] for entry in each[3:6]) / 3
        assert some[5].metrics[name] == pytest.approx(expected)
    assert each[3].metrics["loss"] == pytest.approx(each[3].metrics["fit"] + 0.5 * each[3].metrics["far"])


def test_averaged_weights_are_the_moving_average_of_the_weights_after_each_step() -> None:
    whole, expected = training(recipe()), None
    for _ in fit(whole, DATA):
        now = weight(whole)
        expected = now.clone() if expected is None else 0.8 * expected + 0.2 * now
        torch.testing.assert_close(whole.weights()["layer.weight"], expected)
    assert not torch.allclose(whole.weights()["layer.weight"], now)


def test_validation_is_of_the_averaged_weights_with_the_same_chance_every_time() -> None:
    whole, progress = trained(recipe())
    averaged = Linear()
    averaged.load_state_dict(whole.weights())
    draws = averaged.draw(POINTS[30:], Stream.of(0, (30, 31)).fork("validation"))
    assert progress[-1].metrics["validation_loss"] == pytest.approx(averaged(POINTS[30:], draws).total.item())
    assert whole.validate(DATA) == whole.validate(DATA)


def test_validation_counts_clips_and_not_batches() -> None:
    whole = training(recipe())
    parts = [((0, 1, 2), POINTS[:3]), ((3,), POINTS[3:4])]
    (three, one) = (whole.validate(Data(batches, [part]))["validation_fit"] for part in parts)
    both = whole.validate(Data(batches, parts))["validation_fit"]
    assert both == pytest.approx((3 * three + one) / 4)


def test_validation_does_not_change_the_training() -> None:
    often, _ = trained(recipe(validate_every=1))
    never, _ = trained(recipe(), Data(batches, []))
    assert equal(often.state(), never.state())


def test_without_validation_clips_there_is_no_validation_loss() -> None:
    _, progress = trained(recipe(), Data(batches, []))
    assert not any(name.startswith("validation") for entry in progress for name in entry.metrics)


def test_a_loss_that_is_not_finite_stops_with_step_terms_and_samples() -> None:
    def torn(start: int) -> Iterator[Batch]:
        for step, (samples, batch) in enumerate(batches(start), start):
            yield samples, batch * (math.nan if step == 4 else 1)

    with pytest.raises(InputError) as caught:
        list(fit(training(recipe()), Data(torn, [])))
    text = str(caught.value)
    assert "the loss is not finite at step 5 (loss nan, fit nan, far nan" in text
    assert f"samples {list(ids(4))}" in text
    assert "lower the learning rate" in text


def test_a_loss_that_is_not_finite_never_reaches_a_checkpoint() -> None:
    def torn(start: int) -> Iterator[Batch]:
        return ((samples, batch * math.nan) for samples, batch in batches(start))

    steps = fit(training(recipe(log_every=6, checkpoint_every=4)), Data(torn, []))
    with pytest.raises(InputError, match="not finite"):
        next(entry for entry in steps if entry.state is not None)


def test_an_exploding_loss_stops_with_its_first_step_and_what_it_was() -> None:
    def growing(start: int) -> Iterator[Batch]:
        return ((samples, batch * (1e4 if step >= 7 else 1)) for step, (samples, batch) in enumerate(batches(start)))

    with pytest.raises(InputError, match=r"exploded \(lowest mean so far [\d.]+\) at step 8 .* samples \[28, 29"):
        list(fit(training(recipe(log_every=3, learning_rate=1e-6)), Data(growing, [])))


def test_a_single_hard_batch_is_no_explosion() -> None:
    def hard(start: int) -> Iterator[Batch]:
        return ((samples, batch * (1e4 if step == 7 else 1)) for step, (samples, batch) in enumerate(batches(start)))

    assert len(list(fit(training(recipe(log_every=3, learning_rate=1e-6)), Data(hard, [])))) == 12


def test_a_training_that_should_stop_does_so_at_the_next_line_of_the_log_with_its_state() -> None:
    whole = training(recipe(log_every=3, checkpoint_every=100))
    *before, last = fit(whole, DATA, lambda: whole.step >= 4)
    assert last.step == 6
    assert last.metrics
    assert last.state is not None
    assert not any(entry.state for entry in before)


class Greedy(Linear):
    """Asks for more memory than any machine has, as soon as it is given more than two points."""

    def forward(self, batch: Tensor, draws: Draws) -> Losses:
        torch.empty(2**59 if len(batch) > 2 else 1)
        return super().forward(batch, draws)


def test_too_little_memory_is_told_with_what_to_lower_and_that_is_enough() -> None:
    words = r"out of memory at step 1 with 4 clips in a worker's micro-batch \(.*\); set recipe.micro_batch to 2"
    with pytest.raises(InputError, match=words):
        list(fit(training(recipe(), Greedy), DATA))
    assert len(list(fit(training(recipe(micro_batch=2), Greedy), Data(batches, [])))) == 12


def test_an_error_that_is_not_about_memory_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="broadcast"):
        list(fit(training(recipe()), Data(lambda start: ((i, x[:, :2]) for i, x in batches(start)), [])))


def test_every_line_of_the_log_tells_the_rate_the_wait_the_memory_and_both_validation_losses() -> None:
    _, progress = trained(recipe(steps=6, log_every=6, validate_every=6))
    names = {"learning_rate", "gradient_norm", "steps_per_second", "data_wait"}
    names |= {"memory_peak_mib", "teraflops_per_second", "share_of_matmul_peak"}
    kinds = {f"validation_{raw}{term}" for raw in ("", "raw_") for term in ("loss", "fit", "far")}
    assert names | kinds | {"loss", "fit", "far"} == set(progress[-1].metrics)
    assert 0 <= progress[-1].metrics["data_wait"] < 1
    assert progress[-1].metrics["memory_peak_mib"] > 10
    # one layer of three numbers: two operations forward, and in the backward pass two for the weights alone
    operations = 4 * 3 * 4 * progress[-1].metrics["steps_per_second"]
    assert progress[-1].metrics["teraflops_per_second"] == pytest.approx(operations / 1e12)
    # a layer of three numbers is nowhere near what the machine could do
    assert 0 < progress[-1].metrics["share_of_matmul_peak"] < 0.01


def test_raw_validation_losses_are_of_the_models_own_weights() -> None:
    whole, progress = trained(recipe())
    draws = whole.draw(POINTS[30:], Stream.of(0, (30, 31)).fork("validation"))
    expected = whole.model(POINTS[30:], draws).total.item()
    assert progress[-1].metrics["validation_raw_loss"] == pytest.approx(expected)
    assert progress[-1].metrics["validation_raw_loss"] != progress[-1].metrics["validation_loss"]


def test_gradients_are_clipped_and_told_as_they_were() -> None:
    whole = training(recipe(clip=1e-3))
    _, norm = whole.update(ids(0), POINTS[:4])
    gradients = [parameter.grad for parameter in whole.model.parameters()]
    clipped = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm()
    assert norm.item() > 0.1
    assert clipped.item() == pytest.approx(1e-3, rel=1e-3)


def test_another_seed_is_another_training_and_the_same_seed_the_same() -> None:
    first, second, other = trained(recipe())[0], trained(recipe())[0], trained(recipe(seed=1))[0]
    assert equal(first.state(), second.state())
    assert not equal(first.weights(), other.weights())


def test_every_step_has_chance_of_its_own() -> None:
    whole = training(recipe(learning_rate=1e-30))
    losses = [whole.update(ids(0), POINTS[:4])[0].total.item() for _ in range(3)]
    assert len(set(losses)) == 3


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_mean_gradient_of_two_workers_is_the_gradient_of_one() -> None:
    """Each worker has half of the batch; what a sample draws does not depend on whose half it is in."""
    clips = torch.randn(4, 3, *LATENT, generator=torch.Generator().manual_seed(2))

    def gradient(part: slice) -> dict[str, Tensor]:
        torch.manual_seed(0)
        worker = training(recipe(), tiny_config().build)
        samples = tuple(range(10, 14))[part]
        worker.losses(worker.forward, clips[part], worker.stream(samples, "step", 0)).total.backward()
        return gradients(worker.model)

    one, first, second = gradient(slice(None)), gradient(slice(0, 2)), gradient(slice(2, 4))
    assert one.keys() == first.keys() == second.keys()
    for name, whole in one.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, whole, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_step_in_micro_batches_is_the_step_of_the_whole_batch(size: int) -> None:
    """Three of four clips leave a smaller rest; the model's rows, masks and noises must not know of the parts."""
    clips = torch.randn(4, 3, *LATENT, generator=torch.Generator().manual_seed(2))

    def step(micro_batch: int | None) -> tuple[Losses, Tensor, dict[str, Tensor]]:
        torch.manual_seed(0)
        whole = training(recipe(micro_batch=micro_batch), tiny_config().build)
        losses, norm = whole.update((0, 1, 2, 3), clips)
        return losses, norm, gradients(whole.model)

    losses, norm, gradient = step(None)
    parted, parted_norm, parted_gradient = step(size)
    torch.testing.assert_close(parted.total, losses.total, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(parted.terms, losses.terms, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(parted_norm, norm, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(parted_gradient, gradient, atol=1e-6, rtol=1e-5)


def test_a_micro_batch_that_holds_the_whole_batch_changes_no_bit() -> None:
    assert equal(trained(recipe(micro_batch=4))[0].state(), trained(recipe())[0].state())


def test_a_training_in_micro_batches_validates_alike() -> None:
    parted, whole = training(recipe(micro_batch=1)), training(recipe())
    held = Data(batches, [((0, 1, 2), POINTS[:3])])
    assert parted.validate(held) == pytest.approx(whole.validate(held), abs=1e-6)


def test_workers_exchange_gradients_once_a_step_however_many_micro_batches(tmp_path: Any) -> None:
    exchanged: list[int] = []

    def hook(state: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        exchanged.append(bucket.index())
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    def parallel(model: nn.Module) -> nn.Module:
        wrapped = DistributedDataParallel(model)
        wrapped.register_comm_hook(None, hook)
        return wrapped

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        whole = Training(Linear(), parallel, recipe(micro_batch=1))
        for step in range(3):
            whole.update(ids(step), POINTS[list(ids(step))])
    finally:
        torch.distributed.destroy_process_group()
    assert exchanged == [0, 0, 0]


def test_bfloat16_keeps_weights_and_losses_in_float32_and_stays_near() -> None:
    clips = torch.randn(4, 3, *LATENT, generator=torch.Generator().manual_seed(2))
    totals = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        whole = training(recipe(precision=precision), tiny_config().build)
        losses, _ = whole.update((0, 1, 2, 3), clips)
        totals.append(losses.total)
        assert losses.total.dtype == torch.float32
        assert {parameter.dtype for parameter in whole.model.parameters()} == {torch.float32}
    torch.testing.assert_close(totals[1], totals[0], rtol=0.02, atol=0)


def test_a_state_can_be_taken_to_another_training_and_both_go_on_alike() -> None:
    first = training(recipe())
    for entry in fit(first, DATA):
        if entry.step == 5:
            break
    second = training(recipe())
    second.restore(copy.deepcopy(first.state()))
    for one in (first, second):
        one.update(ids(5), POINTS[list(ids(5))])
    assert equal(first.state(), second.state())


def test_a_recipe_that_cannot_be_followed_is_refused_before_the_first_step() -> None:
    with pytest.raises(InputError, match="too few for 5 workers"):
        training(recipe(workers=5))
