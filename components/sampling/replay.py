"""CUDA graphs: what a GPU was asked once is recorded, and asked again by one call.

Sampling is thousands of small kernels. One video at a time, Python takes longer to launch each than the GPU to run it;
a recording launches all of them at once. It computes what the same calls compute.
"""

import dataclasses
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

TOLERANCE = 0.01  # of a replay's norm: sums may be rounded otherwise, and the integration carries that on
KEPT = 256  # recordings of a model; one for each number of known tokens, batch and sampler

Computation = Callable[..., Tensor]  # of a model and values that hold tensors; hashed and compared by what it does


class Recording:
    """The kernels of one computation, with the tensors they read and the one they write."""

    def __init__(self, compute: Callable[..., Tensor], values: tuple[Any, ...], pool: Any) -> None:
        tensors, _ = apart(values)
        self.inputs = [tensor.contiguous().clone() for tensor in tensors]
        self.device, self.graph = tensors[0].device, torch.cuda.CUDAGraph()
        torch.clear_autocast_cache()  # else it would read casts of the weights that are gone when it is replayed
        with torch.cuda.device(self.device):  # else what runs on another GPU is not recorded, but done
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.output = compute(*together(values, iter(self.inputs)))
            self.output.zero_()  # nothing but a replay fills it
        torch.clear_autocast_cache()  # else others would read those that only a replay writes

    def replay(self, values: tuple[Any, ...]) -> Tensor:
        """The same computation of other values that are built alike."""
        with torch.cuda.device(self.device):
            torch._foreach_copy_(self.inputs, apart(values)[0])
            self.graph.replay()
            return self.output.clone()


class Recordings:
    """The recordings of one model that were last asked for.

    A computation is recorded when it is asked for a second time, and forgotten when `KEPT` others came since. One that
    cannot be recorded, or is not replayed as it was launched, is launched ever after, which a warning tells.
    """

    def __init__(self, model: nn.Module, record: Callable[..., Recording] = Recording) -> None:
        # tables that change with the model; the model itself would live for ever in the dictionary that it is a key of
        self._weights = [table for part in model.modules() for table in (part._parameters, part._buffers)]
        self._record = record
        self._kept: OrderedDict[Hashable, Recording | Literal["asked", "refused"]] = OrderedDict()
        self._pool: Any = None  # one after the other, and so they may share their memory
        self._lock = threading.Lock()

    def run(self, compute: Computation, model: nn.Module, *values: Any) -> Tensor:
        """What `compute(model, *values)` gives."""
        weights = tuple(part.data_ptr() for table in self._weights for part in table.values() if part is not None)
        cast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        key = (compute, apart(values)[1], cast, weights)
        with self._lock:
            recording = self._kept.get(key)
            if isinstance(recording, Recording):
                self._kept.move_to_end(key)
                return recording.replay(values)
            launched = compute(model, *values)
            if recording is None:
                self._kept[key] = "asked"
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            elif recording == "asked":
                self._kept[key] = self._tried(lambda *others: compute(model, *others), values, launched) or "refused"
                self._kept.move_to_end(key)
            return launched

    def _tried(self, compute: Callable[..., Tensor], values: tuple[Any, ...], launched: Tensor) -> Recording | None:
        """A recording that gives what was launched just now, if there can be one."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            recording = self._record(compute, values, self._pool)
            distance = (recording.replay(values).float() - launched.float()).norm()
        except RuntimeError as error:  # of CUDA, which has no narrower kind
            reason = str(error).splitlines()[0]
        else:
            if distance <= TOLERANCE * launched.float().norm():
                return recording
            reason = f"its replay is {float(distance):.3g} away from what was launched"
        warnings.warn(f"a part of the sampling is not recorded, which only costs time: {reason}", stacklevel=2)
        return None


_OF: WeakKeyDictionary[nn.Module, Recordings] = WeakKeyDictionary()  # a memory of kernels, never of results


def replayed(compute: Computation, model: Any, *values: Any) -> Tensor:
    """What `compute(model, *values)` gives, from a recording on a GPU that is asked for the same again.

    `compute` must depend on nothing but its arguments, and on nothing of `values` but their numbers, which is what its
    hash and its equality are to say; it must not wait for the GPU. Tensors, tuples, dataclasses and constants are
    values.
    """
    tensors, _ = apart(values)
    if torch.is_grad_enabled() or not isinstance(model, nn.Module) or not tensors or not tensors[0].is_cuda:
        return compute(model, *values)
    if model not in _OF:
        _OF[model] = Recordings(model)
    return _OF[model].run(compute, model, *values)


def apart(value: Any) -> tuple[list[Tensor], Hashable]:
    """The tensors in a value, and all else that it is."""
    if isinstance(value, Tensor):
        return [value], (value.shape, value.dtype, value.device)
    if isinstance(value, tuple) or dataclasses.is_dataclass(value):
        several = [apart(part) for part in _parts(value)]
        return [tensor for tensors, _ in several for tensor in tensors], (type(value), *(form for _, form in several))
    return [], value


def together(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same value with these tensors in the places of its own."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, tuple):
        return tuple(together(part, tensors) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(together(part, tensors) for part in _parts(value)))
    return value


def _parts(value: Any) -> tuple[Any, ...]:
    if isinstance(value, tuple):
        return value
    return tuple(getattr(value, field.name) for field in dataclasses.fields(value))
