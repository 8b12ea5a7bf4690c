"""Cache of CUDA graphs: record a computation once, and replay all its kernels with a single launch.

Sampling launches thousands of small kernels. At batch size one, Python takes longer to launch a kernel than the GPU to
run it. Replaying a graph gives the same result as launching the kernels one by one.
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

TOLERANCE = 0.01  # relative error allowed in a replay: rounding may differ, and the integration amplifies it
MAX_GRAPHS = 256  # cached graphs of a model; each number of known tokens, batch shape and sampler needs its own

Computation = Callable[..., Tensor]  # called with a model and values that hold tensors; equal if it computes the same


class Recording:
    """CUDA graph of one computation, with its static input and output tensors."""

    def __init__(self, compute: Callable[..., Tensor], values: tuple[Any, ...], pool: Any) -> None:
        tensors, _ = flatten(values)
        self.inputs = [tensor.contiguous().clone() for tensor in tensors]
        self.device, self.graph = tensors[0].device, torch.cuda.CUDAGraph()
        torch.clear_autocast_cache()  # else the graph would read cached casts of weights that are freed before a replay
        with torch.cuda.device(self.device):  # else kernels on another GPU would run now and not be captured
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.output = compute(*unflatten(values, iter(self.inputs)))
            self.output.zero_()  # so that only a replay can fill the output
        torch.clear_autocast_cache()  # else later code would read casts of weights that only a replay computes

    def replay(self, values: tuple[Any, ...]) -> Tensor:
        """Run the computation on other values of the same structure, shapes and data types."""
        with torch.cuda.device(self.device):
            torch._foreach_copy_(self.inputs, flatten(values)[0])
            self.graph.replay()
            return self.output.clone()


class GraphCache:
    """Least-recently-used cache of the recordings of one model, at most `MAX_GRAPHS` of them.

    A computation is recorded at its second call. If the recording fails, or its replay differs from the direct
    result, the computation is never replayed, and a warning gives the reason.
    """

    def __init__(self, model: nn.Module, record: Callable[..., Recording] = Recording) -> None:
        # the tables of weights, which stay current; a reference to the model would keep it alive as a key of _CACHES
        self._weights = [table for part in model.modules() for table in (part._parameters, part._buffers)]
        self._record = record
        self._recordings: OrderedDict[Hashable, Recording | Literal["seen once", "not recordable"]] = OrderedDict()
        self._pool: Any = None  # memory pool shared by all graphs, which is safe because they run one at a time
        self._lock = threading.Lock()

    def run(self, compute: Computation, model: nn.Module, *values: Any) -> Tensor:
        """Return `compute(model, *values)`, by a replay if the computation is recorded."""
        weights = tuple(part.data_ptr() for table in self._weights for part in table.values() if part is not None)
        cast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
        key = (compute, flatten(values)[1], cast, weights)
        with self._lock:
            recording = self._recordings.get(key)
            if isinstance(recording, Recording):
                self._recordings.move_to_end(key)
                return recording.replay(values)
            direct = compute(model, *values)
            if recording is None:
                self._recordings[key] = "seen once"
                if len(self._recordings) > MAX_GRAPHS:
                    self._recordings.popitem(last=False)
            elif recording == "seen once":
                made = self._try_to_record(lambda *others: compute(model, *others), values, direct)
                self._recordings[key] = made or "not recordable"
                self._recordings.move_to_end(key)
            return direct

    def _try_to_record(
        self, compute: Callable[..., Tensor], values: tuple[Any, ...], direct: Tensor
    ) -> Recording | None:
        """Return a recording whose replay agrees with the result `direct`, or warn and return None."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            recording = self._record(compute, values, self._pool)
            distance = (recording.replay(values).float() - direct.float()).norm()
        except RuntimeError as error:  # CUDA errors have no narrower type
            reason = str(error).splitlines()[0]
        else:
            if distance <= TOLERANCE * direct.float().norm():
                return recording
            reason = f"the replay differs by {float(distance):.3g} (L2 norm) from the direct result"
        warnings.warn(
            f"sampling: a computation runs without a CUDA graph, which is slower but correct: {reason}", stacklevel=2
        )
        return None


_CACHES: WeakKeyDictionary[nn.Module, GraphCache] = WeakKeyDictionary()  # caches kernels, never results


def run_graphed(compute: Computation, model: Any, *values: Any) -> Tensor:
    """Return `compute(model, *values)`; on a GPU, replay a CUDA graph if the same computation ran before.

    Values are tensors, tuples, dataclasses and hashable constants. `compute` must depend only on its arguments and on
    the fields that its hash and equality cover. Which kernels it launches may depend on the shapes and constants in
    `values`, but not on the contents of tensors. It must not synchronise with the GPU.
    """
    tensors, _ = flatten(values)
    if torch.is_grad_enabled() or not isinstance(model, nn.Module) or not tensors or not tensors[0].is_cuda:
        return compute(model, *values)
    if model not in _CACHES:
        _CACHES[model] = GraphCache(model)
    return _CACHES[model].run(compute, model, *values)


def flatten(value: Any) -> tuple[list[Tensor], Hashable]:
    """Return the tensors of a value and a hashable description of its structure, shapes and constants."""
    if isinstance(value, Tensor):
        return [value], (value.shape, value.dtype, value.device)
    if isinstance(value, tuple) or dataclasses.is_dataclass(value):
        flattened = [flatten(part) for part in _children(value)]
        return [tensor for tensors, _ in flattened for tensor in tensors], (
            type(value),
            *(structure for _, structure in flattened),
        )
    return [], value


def unflatten(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a copy of the value with its tensors replaced by `tensors`, in the order of `flatten`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, tuple):
        return tuple(unflatten(part, tensors) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(unflatten(part, tensors) for part in _children(value)))
    return value


def _children(value: Any) -> tuple[Any, ...]:
    if isinstance(value, tuple):
        return value
    return tuple(getattr(value, field.name) for field in dataclasses.fields(value))
