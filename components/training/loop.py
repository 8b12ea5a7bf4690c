"""The loop: a generator of progress that knows neither Ray nor MLflow, and trains whatever returns losses."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from components.nn.losses import Losses
from components.randomness import Stream
from components.training import sharding
from components.training.ema import averaged_state, build_ema
from components.training.optimizer import RecipeConfig, build_optimizer, build_schedule
from components.training.plan import DRAWS, draws, flops, shapes
from components.training.recompute import recompute
from components.training.resources import Clock, enough_memory, matmul_rate, memory_peak
from components.training.watch import Window, mean_over_workers, team

Batch = Any  # samples that can be sliced, counted and moved: a tensor, or what a model takes in its place


@runtime_checkable
class Trainable(Protocol):
    """A module that draws its chance first and then computes its losses as a function."""

    def draw(self, batch: Any, stream: Stream) -> Any:
        """The chance of one step on this batch."""
        ...

    def __call__(self, batch: Any, draws: Any) -> Losses:
        """The losses of this batch."""
        ...


def _unseen(model: Any, step: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class Data:
    """Where batches come from: numbers of samples in, tensors out; and who looks at what comes of them."""

    batches: Callable[
        [int], Iterator[tuple[tuple[int, ...], Batch]]
    ]  # from a step on: this worker's sample ids and batch
    validation: Sequence[tuple[tuple[int, ...], Batch]]
    look: Callable[[Any, int], None] = _unseen  # is shown the averaged model and the step, after each validation


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
        self.averaged = build_ema(model, config.ema)
        self.shapes = shapes(model)
        if config.activation_checkpointing:
            recompute(model)
        if config.parallel == "fsdp" and team() > 1:
            wrapped, *_ = map(sharding.shard, (model, self.averaged.module))
        else:
            wrapped = parallel(model)  # the model itself, or wrapped for several workers
        self.unexchanged: Callable[[], AbstractContextManager[None]] = nullcontext
        if isinstance(wrapped, DistributedDataParallel):
            self.unexchanged = wrapped.no_sync
        self.forward = torch.compile(wrapped) if config.compile else wrapped
        self.optimizer = build_optimizer(model, config)
        self.schedule = build_schedule(self.optimizer, config)
        self.step = 0
        self.window = Window()
        self.device = next(model.parameters()).device

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors and plain values.

        It is the same however the weights are spread over the workers, which must all ask for it.
        """
        return {
            "step": self.step,
            "model": sharding.gathered(self.model.state_dict()),
            "averaged": sharding.gathered(self.averaged.state_dict()),
            "optimizer": sharding.gathered(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
            "window": self.window.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from this state."""
        self.step = state["step"]
        self.model.load_state_dict(sharding.spread(state["model"], self.model.state_dict()))
        self.averaged.load_state_dict(sharding.spread(state["averaged"], self.averaged.state_dict()))
        self.optimizer.load_state_dict(sharding.spread_optimizer(state["optimizer"], self.optimizer))
        self.schedule.load_state_dict(state["schedule"])
        self.window = Window.restored(state["window"], self.device)

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, under the model's names; all workers must ask for them."""
        return sharding.gathered(averaged_state(self.averaged))

    def losses(self, model: Any, samples: tuple[int, ...], batch: Batch, *purpose: str | int) -> Losses:
        """The losses of a batch; its chance belongs to the seed, the purpose and the samples, not to the worker."""
        stream = Stream.of(self.config.seed, samples, self.device).fork(*purpose)
        batch = batch.to(self.device, non_blocking=True)
        draws = self.draw(batch, stream)
        enabled = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            return model(batch, draws)

    def pace(self, work: float, steps_per_second: float) -> dict[str, float]:
        """What so many operations a step make a second, and of what the workers' matrix products could at best."""
        done = work * steps_per_second
        best = team() * matmul_rate(self.device, getattr(torch, self.config.precision))
        return {"teraflops_per_second": done / 1e12, "share_of_matmul_peak": done / best}

    def flops(self, batch: Batch) -> float:
        """Floating-point operations of a step over all workers, without what is computed twice."""
        chances = draws(self.model, batch[:1], self.config.seed, range(self.step, self.step + DRAWS))
        return self.config.batch * flops(self.shapes, chances, batch[:1])

    def accumulate(self, samples: tuple[int, ...], batch: Batch) -> Losses:
        """Adds this worker's part of the gradient of the mean loss, a micro-batch at a time; workers exchange it once.

        Losses and gradient are scaled so that their mean over the workers is that over the whole batch, also where
        some have a clip more than others.
        """
        parts = [(len(ids), ids, part) for ids, part in self._parts(samples, batch)]
        # weights that are spread are put together in each turn, so all take as many: their last one again, for nothing
        parts += [(0, *parts[-1][1:])] * (self._turns() - len(parts))
        means = []
        for index, (count, ids, part) in enumerate(parts):
            share = count * team() / self.config.batch
            with nullcontext() if index == len(parts) - 1 else self.unexchanged():
                losses = self.losses(self.forward, ids, part, "step", self.step)
                (losses.total * share).backward()
            means.append((share, losses))
        return Losses.mean(means)

    def _turns(self) -> int:
        """Micro-batches of the worker that has the most clips."""
        most = math.ceil(self.config.batch / team())
        return math.ceil(most / (self.config.micro_batch or most))

    def _parts(self, samples: tuple[int, ...], batch: Batch) -> Iterator[tuple[tuple[int, ...], Batch]]:
        size = self.config.micro_batch or max(1, len(samples))
        for start in range(0, len(samples), size):
            yield samples[start : start + size], batch[start : start + size]

    def update(self, samples: tuple[int, ...], batch: Batch) -> tuple[Losses, Tensor]:
        """One step of the optimiser: the losses before it, and the norm of the gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.accumulate(samples, batch)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norm = sharding.whole(nn.utils.clip_grad_norm_(trained, self.config.clip))
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.model)
        self.step += 1
        return losses, norm

    @torch.no_grad()
    def validate(self, data: Data) -> dict[str, float]:
        """Validation losses of the averaged weights and of the raw ones: the same samples and draws every time."""
        found = self._validation(self.averaged.module.eval(), data, "validation_")
        return found | self._validation(self.model.eval(), data, "validation_raw_")

    def _validation(self, model: Any, data: Data, prefix: str) -> dict[str, float]:
        sums: dict[str, Tensor] = {}
        parts = (part for samples, batch in data.validation for part in self._parts(samples, batch))
        for samples, batch in parts:
            losses = self.losses(model, samples, batch, "validation")
            for name, value in {"loss": losses.total, **losses.terms}.items():
                sums[name] = sums.get(name, torch.zeros(())) + value.float().cpu() * len(samples)
        count = sum(len(samples) for samples, _ in data.validation)
        return {f"{prefix}{name}": float(total) / count for name, total in sums.items()} if count else {}


def fit(training: Training, data: Data, stopping: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
    """Trains from where the state stands to the recipe's last step, or until `stopping` at a line of the log.

    Yields after every step; metrics are means over an interval of `log_every` steps and over all workers, which stop
    together if one of them should. Raises InputError if the loss is not finite or has exploded, with the step, the
    terms and the samples, and where memory is short with what to lower.
    """
    config, model = training.config, training.model.train()
    work, clock = 0.0, Clock()
    batches = data.batches(training.step)
    while training.step < config.steps:
        with clock.waiting():
            samples, batch = next(batches)
        if not work:
            with clock.paused():
                work = training.flops(batch)
                training.pace(work, 0.0)  # measures the best now, where it is not timed
        with enough_memory(config, len(samples), training.step + 1):
            losses, norm = training.update(samples, batch)
        window, step = training.window, training.step
        window.add(samples, {"loss": losses.total, **losses.terms, "gradient_norm": norm})
        last = step == config.steps
        logged = last or step % config.log_every == 0
        stopped = logged and bool(mean_over_workers(torch.tensor(float(stopping()), device=training.device)))
        due = last or stopped or step % config.checkpoint_every == 0
        metrics: dict[str, float] = {}
        if logged or due:
            window.check(step)
        if logged:
            rates = clock.lap()
            metrics = {
                **window.close(),
                "learning_rate": float(training.schedule.get_last_lr()[0]),
                **rates,
                **training.pace(work, rates["steps_per_second"]),
                "memory_peak_mib": memory_peak(training.device),
            }
        if last or step % config.validate_every == 0:
            with clock.paused():
                metrics |= training.validate(data)
                data.look(training.averaged.module, step)
                model.train()
        yield Progress(step, metrics, training.state if due else None)
        if stopped:
            return
