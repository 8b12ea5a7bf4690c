"""The loop: a generator of progress that knows neither Ray nor MLflow, and trains whatever returns losses."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from components.errors import InputError
from components.nn.losses import Losses
from components.randomness import Stream
from components.training.ema import averaged_state, build_ema
from components.training.optimizer import RecipeConfig, build_optimizer, build_schedule


@runtime_checkable
class Trainable(Protocol):
    """A module that draws its chance first and then computes its losses as a function."""

    def draw(self, batch: Any, stream: Stream) -> Any:
        """The chance of one step on this batch."""
        ...

    def __call__(self, batch: Any, draws: Any) -> Losses:
        """The losses of this batch."""
        ...


@dataclass(frozen=True, slots=True)
class Data:
    """Where batches come from: numbers of samples in, tensors out."""

    batches: Callable[
        [int], Iterator[tuple[tuple[int, ...], Tensor]]
    ]  # from a step on: this worker's sample ids and batch
    validation: Sequence[tuple[tuple[int, ...], Tensor]]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the training stands after a step."""

    step: int  # steps done
    metrics: dict[str, float]  # empty between the intervals of the recipe
    state: Callable[[], dict[str, Any]] | None  # the whole state, when a checkpoint is due


class Training:
    """Model, averaged model, optimiser and schedule, with one step as a method and all state in one place."""

    def __init__(self, model: nn.Module, parallel: Callable[[nn.Module], nn.Module], config: RecipeConfig) -> None:
        config.check()
        self.config = config
        assert isinstance(model, Trainable)
        self.model, self.draw = model, model.draw
        self.forward = parallel(model)  # the model itself, or wrapped for several workers
        several = isinstance(self.forward, DistributedDataParallel)
        self.unexchanged: Callable[[], AbstractContextManager[None]] = self.forward.no_sync if several else nullcontext
        self.optimizer = build_optimizer(model, config)
        self.schedule = build_schedule(self.optimizer, config)
        self.averaged = build_ema(model, config.ema)
        self.step = 0
        self.device = next(model.parameters()).device

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors and plain values."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from this state."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, under the model's names."""
        return averaged_state(self.averaged)

    def losses(self, model: Any, samples: tuple[int, ...], batch: Tensor, *purpose: str | int) -> Losses:
        """The losses of a batch; its chance belongs to the seed, the purpose and the samples, not to the worker."""
        stream = Stream.of(self.config.seed, samples, self.device).fork(*purpose)
        batch = batch.to(self.device, non_blocking=True)
        draws = self.draw(batch, stream)
        enabled = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            return model(batch, draws)

    def accumulate(self, samples: tuple[int, ...], batch: Tensor) -> Losses:
        """Adds the gradient of the mean loss of this batch, a micro-batch at a time; workers exchange it once."""
        parts = list(self._parts(samples, batch))
        means = []
        for index, (ids, part) in enumerate(parts):
            share = len(ids) / len(samples)
            with nullcontext() if index == len(parts) - 1 else self.unexchanged():
                losses = self.losses(self.forward, ids, part, "step", self.step)
                (losses.total * share).backward()
            means.append((share, losses))
        return Losses.mean(means)

    def _parts(self, samples: tuple[int, ...], batch: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor]]:
        size = self.config.micro_batch or max(1, len(samples))
        for start in range(0, len(samples), size):
            yield samples[start : start + size], batch[start : start + size]

    def update(self, samples: tuple[int, ...], batch: Tensor) -> tuple[Losses, Tensor]:
        """One step of the optimiser: the losses before it, and the norm of the gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.accumulate(samples, batch)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norm = nn.utils.clip_grad_norm_(trained, self.config.clip)
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.model)
        self.step += 1
        return losses, norm

    @torch.no_grad()
    def validate(self, data: Data) -> dict[str, float]:
        """Validation losses of the averaged weights: the same samples and draws every time."""
        model: Any = self.averaged.module.eval()
        sums: dict[str, Tensor] = {}
        parts = (part for samples, batch in data.validation for part in self._parts(samples, batch))
        for samples, batch in parts:
            losses = self.losses(model, samples, batch, "validation")
            for name, value in {"loss": losses.total, **losses.terms}.items():
                sums[name] = sums.get(name, torch.zeros(())) + value.float().cpu() * len(samples)
        count = sum(len(samples) for samples, _ in data.validation)
        return {f"validation_{name}": float(total) / count for name, total in sums.items()} if count else {}


def fit(training: Training, data: Data) -> Iterator[Progress]:
    """Trains from where the state stands to the recipe's last step.

    Yields after every step; metrics are means over an interval of `log_every` steps. Raises InputError if the loss is
    not finite, with the step, the terms and the samples.
    """
    config, model = training.config, training.model.train()
    window: list[dict[str, Tensor]] = []
    waited, began = 0.0, time.perf_counter()
    batches = data.batches(training.step)
    while training.step < config.steps:
        asked = time.perf_counter()
        samples, batch = next(batches)
        waited += time.perf_counter() - asked
        losses, norm = training.update(samples, batch)
        window.append({"loss": losses.total.detach(), **losses.terms, "gradient_norm": norm})
        step = training.step
        metrics: dict[str, float] = {}
        last = step == config.steps
        due = step % config.checkpoint_every == 0 or last
        if due:
            _check(_means(window[-1:]), step, samples)
        if step % config.log_every == 0 or last:
            metrics = _means(window)
            _check(metrics, step, samples)
            elapsed = time.perf_counter() - began
            metrics |= {
                "learning_rate": float(training.schedule.get_last_lr()[0]),
                "steps_per_second": len(window) / elapsed,
                "data_wait": waited / elapsed,
            }
            window, waited, began = [], 0.0, time.perf_counter()
        if step % config.validate_every == 0 or last:
            paused = time.perf_counter()
            metrics |= training.validate(data)
            model.train()
            began += time.perf_counter() - paused
        yield Progress(step, metrics, training.state if due else None)


def _means(window: list[dict[str, Tensor]]) -> dict[str, float]:
    """Means over the interval: the only place where the host waits for the device."""
    names = window[0]
    stacked = torch.stack([torch.stack([entry[name].float() for name in names]) for entry in window]).mean(0).tolist()
    return dict(zip(names, stacked, strict=True))


def _check(metrics: dict[str, float], step: int, samples: tuple[int, ...]) -> None:
    if all(value - value == 0 for value in metrics.values()):
        return
    terms = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    raise InputError(
        f"the loss is not finite in the steps up to {step} ({terms}; samples {list(samples)}); "
        "lower the learning rate, or look for damaged clips; the last checkpoint is kept"
    )
