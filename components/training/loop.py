"""Training loop for any module that returns losses: a generator of progress, independent of Ray and MLflow."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from components.foundation.randomness import Stream
from components.nn.losses import Losses
from components.training import sharding, validation
from components.training.loss_monitor import LossMonitor, mean_over_workers, world_size
from components.training.optimizer import RecipeConfig, averaged_state, build_ema, build_optimizer, build_schedule
from components.training.plan import DRAWN_STEPS, draw_steps, flops, meta_copy
from components.training.resources import Clock, checkpoint_activations, explain_out_of_memory, matmul_rate, memory_peak
from components.training.validation import GridBatch, MeanLosses

Batch = Any  # a tensor or other model input that supports slicing, len() and to(device)

_log = logging.getLogger(__name__)


@runtime_checkable
class Trainable(Protocol):
    """A module that draws all random numbers of a step first; its losses are then a deterministic function of them."""

    def draw(self, batch: Any, stream: Stream) -> Any:
        """Return the random draws of one step on this batch.

        A model with masks also has a `visible_grid`: its `draw` accepts one of these numbers of visible tokens as the
        keyword `visible`.
        """
        ...

    def __call__(self, batch: Any, draws: Any) -> Losses:
        """Return the losses of this batch."""
        ...


def _no_op(model: Any, step: int) -> None:
    """No-op validation callback."""


@dataclass(frozen=True)
class Worker:
    """One process of a training run: its rank, the world size, and its device."""

    rank: int
    world_size: int
    device: torch.device
    parallel: Callable[[nn.Module], nn.Module]  # wraps a model so that gradients are averaged over all workers

    def warn(self, text: str) -> None:
        """Log a warning."""
        _log.warning(text)


@dataclass(frozen=True, slots=True)
class Data:
    """Training batches, validation batches, and a callback after each validation."""

    # called with the first step; yields this worker's sample ids and batch of each step
    batches: Callable[[int], Iterator[tuple[tuple[int, ...], Batch]]]
    validation: Sequence[tuple[tuple[int, ...], Batch]]  # sample ids and batch
    # called with the averaged model and the step after each validation
    on_validation_end: Callable[[Any, int], None] = _no_op


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a training run after a step."""

    step: int  # completed steps
    metrics: dict[str, float]  # empty except at the steps of recipe.log_every and recipe.validate_every
    state: Callable[[], dict[str, Any]] | None  # returns the whole state if a checkpoint is due, else None


class Training:
    """Model, averaged model, optimiser and schedule: the whole state of a training run, and its training step."""

    def __init__(self, model: nn.Module, parallel: Callable[[nn.Module], nn.Module], recipe: RecipeConfig) -> None:
        recipe.check()
        self.recipe = recipe
        assert isinstance(model, Trainable)
        self.model = model
        self.draw: Callable[..., Any] = model.draw
        self.averaged = build_ema(model, recipe.ema)
        self.meta_model = meta_copy(model)
        if recipe.activation_checkpointing:
            checkpoint_activations(model)
        if recipe.parallel == "fsdp" and world_size() > 1:
            wrapped, *_ = map(sharding.shard, (model, self.averaged.module))
        else:
            wrapped = parallel(model)  # the model itself, or DistributedDataParallel for several workers
        self.no_sync: Callable[[], AbstractContextManager[None]] = nullcontext
        if isinstance(wrapped, DistributedDataParallel):
            self.no_sync = wrapped.no_sync
        self.forward = torch.compile(wrapped) if recipe.compile else wrapped
        self.optimizer = build_optimizer(model, recipe)
        self.schedule = build_schedule(self.optimizer, recipe)
        self.step = 0
        self.monitor = LossMonitor()
        self.device = next(model.parameters()).device

    def state(self) -> dict[str, Any]:
        """Return a copy of everything that the next step depends on: tensors, on the CPU, and plain values.

        The state does not depend on how the weights are sharded over workers. All workers must call this together; all
        ranks but 0 get None for every tensor.
        """
        return {
            "step": self.step,
            "model": sharding.gather(self.model.state_dict()),
            "averaged": sharding.gather(self.averaged.state_dict()),
            "optimizer": sharding.gather(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
            "window": sharding.gather(self.monitor.state()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load a state that `state` returned; training then resumes at its step."""
        self.step = state["step"]
        self.model.load_state_dict(sharding.shard_like(state["model"], self.model.state_dict()))
        self.averaged.load_state_dict(sharding.shard_like(state["averaged"], self.averaged.state_dict()))
        self.optimizer.load_state_dict(sharding.shard_optimizer_state(state["optimizer"], self.optimizer))
        self.schedule.load_state_dict(state["schedule"])
        self.monitor = LossMonitor.from_state(state["window"], self.device)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the averaged weights, on the CPU, under the model's parameter names.

        All workers must call this together; all ranks but 0 get None for every weight.
        """
        return sharding.gather(averaged_state(self.averaged))

    def stream(self, samples: tuple[int, ...], *purpose: str | int) -> Stream:
        """Return the random stream of these samples: it depends on seed, purpose and samples, not on the worker."""
        return Stream.of(self.recipe.seed, samples, self.device).fork(*purpose)

    def losses(self, model: Any, batch: Batch, stream: Stream, **options: int) -> Losses:
        """Return the losses of a batch with the draws of this random stream; `options` are keywords of `draw`."""
        batch = batch.to(self.device, non_blocking=True)
        draws = self.draw(batch, stream, **options)
        enabled = self.recipe.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            return model(batch, draws)

    def throughput(self, step_flops: float, steps_per_second: float) -> dict[str, float]:
        """Return the achieved TFLOP/s and its share of all workers' matmul peak, for `step_flops` FLOPs per step."""
        achieved = step_flops * steps_per_second
        peak = world_size() * matmul_rate(self.device, getattr(torch, self.recipe.precision))
        return {"teraflops_per_second": achieved / 1e12, "share_of_matmul_peak": achieved / peak}

    def flops(self, batch: Batch) -> float:
        """Return the FLOPs of a step over all workers, without recomputation by activation checkpointing."""
        draws = draw_steps(self.model, batch[:1], self.recipe.seed, range(self.step, self.step + DRAWN_STEPS))
        return self.recipe.batch * flops(self.meta_model, draws, batch[:1])

    def accumulate(self, samples: tuple[int, ...], batch: Batch) -> Losses:
        """Accumulate the gradient of this worker's clips by micro-batches, and return their losses.

        Workers exchange gradients once, in the last micro-batch. Losses and gradients are scaled so that their mean
        over workers is the mean over the whole batch, even if some workers have one clip more than others.
        """
        micro_batches = [(len(ids), ids, part) for ids, part in self._micro_batches(samples, batch)]
        # every micro-batch gathers sharded weights from all workers, so all workers must run equally many: a worker
        # with fewer repeats its last one with weight 0
        micro_batches += [(0, *micro_batches[-1][1:])] * (self._num_micro_batches() - len(micro_batches))
        losses_by_share = []
        for index, (count, ids, part) in enumerate(micro_batches):
            share = count * world_size() / self.recipe.batch
            with nullcontext() if index == len(micro_batches) - 1 else self.no_sync():
                losses = self.losses(self.forward, part, self.stream(ids, "step", self.step))
                (losses.total * share).backward()
            losses_by_share.append((share, losses))
        return Losses.mean(losses_by_share)

    def _num_micro_batches(self) -> int:
        """Return the number of micro-batches of the worker with the most clips."""
        most = math.ceil(self.recipe.batch / world_size())
        return math.ceil(most / (self.recipe.micro_batch or most))

    def _micro_batches(self, samples: tuple[int, ...], batch: Batch) -> Iterator[tuple[tuple[int, ...], Batch]]:
        size = self.recipe.micro_batch or max(1, len(samples))
        for start in range(0, len(samples), size):
            yield samples[start : start + size], batch[start : start + size]

    def update(self, samples: tuple[int, ...], batch: Batch) -> tuple[Losses, Tensor]:
        """Take one optimiser step. Return the losses before it, and the gradient norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.accumulate(samples, batch)
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        norm = sharding.full_tensor(nn.utils.clip_grad_norm_(trainable, self.recipe.clip))
        self.optimizer.step()
        self.schedule.step()
        self.averaged.update_parameters(self.model)
        self.step += 1
        return losses, norm

    @torch.no_grad()
    def validate(self, data: Data) -> dict[str, float]:
        """Return validation losses of the averaged and of the raw weights, with the same samples and draws every time.

        A model with masks is validated at each number of visible tokens of its grid, and losses are means over the
        grid. The averaged weights process each clip at every grid point, which gives the curve of the flow loss. The
        raw weights process each clip once, to save time.
        """
        grid = validation.grid_of(self.model)
        averaged = self._validation(self.averaged.module.eval(), validation.full_grid(data.validation, grid))
        raw = self._validation(self.model.eval(), validation.one_point_per_clip(data.validation, grid))
        means, curve = averaged.mean_over_grid("validation_"), averaged.curve("validation_")
        return means | curve | raw.mean_over_grid("validation_raw_")

    def _validation(self, model: Any, batches: Iterator[GridBatch]) -> MeanLosses:
        means = MeanLosses()
        for part in batches:
            options = {} if part.visible is None else {"visible": part.visible}
            for samples, batch in self._micro_batches(part.samples, part.batch):
                stream = self.stream(samples, "validation").for_batch(part.index)
                means.add(part.visible, self.losses(model, batch, stream, **options), len(samples))
        return means


def fit(training: Training, data: Data, stopping: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
    """Train from the current step to the recipe's last step, or until `stopping()` is true when metrics are logged.

    Yield the progress after every step. Metrics are means over `log_every` steps and over all workers. If `stopping()`
    is true on any worker, all workers stop together.

    Raise InputError if the loss is not finite or has exploded, with the step, the loss terms and the samples. Raise
    InputError if memory runs out, with the setting to lower.
    """
    recipe, model = training.recipe, training.model.train()
    step_flops, clock = 0.0, Clock()
    batches = data.batches(training.step)
    while training.step < recipe.steps:
        with clock.waiting():
            samples, batch = next(batches)
        if not step_flops:
            with clock.paused():
                step_flops = training.flops(batch)
                training.throughput(step_flops, 0.0)  # measures and caches the matmul peak while the clock is paused
        with explain_out_of_memory(recipe, len(samples), training.step + 1):
            losses, norm = training.update(samples, batch)
        monitor, step = training.monitor, training.step
        monitor.add(samples, {"loss": losses.total, **losses.terms, "gradient_norm": norm})
        last = step == recipe.steps
        logged = last or step % recipe.log_every == 0
        stopped = logged and bool(mean_over_workers(torch.tensor(float(stopping()), device=training.device)))
        due = last or stopped or step % recipe.checkpoint_every == 0
        metrics: dict[str, float] = {}
        if logged or due:
            monitor.check(step)
        if logged:
            rates = clock.lap()
            metrics = {
                **monitor.close(),
                "learning_rate": float(training.schedule.get_last_lr()[0]),
                **rates,
                **training.throughput(step_flops, rates["steps_per_second"]),
                "memory_peak_mib": memory_peak(training.device),
            }
        if last or step % recipe.validate_every == 0:
            with clock.paused():
                metrics |= training.validate(data)
                data.on_validation_end(training.averaged.module, step)
                model.train()
        yield Progress(step, metrics, training.state if due else None)
        if stopped:
            return
