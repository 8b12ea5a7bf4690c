"""Command `serve`: an HTTP server that takes a video and streams its predicted frames, each preceded by its canvas.

The server is a Ray Serve application: one ingress deployment reads requests and passes them to replicas of the model.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from components.foundation.config import Config, parse
from components.foundation.errors import InputError
from components.foundation.parallel import cpu_count
from components.telemetry.progress import say
from pipeline.commands.serving.scaling import Replicas, replicas_of
from pipeline.commands.video_predictor import VideoPredictor, usable_device
from pipeline.runtime import environment, network

environment.apply(Path.cwd())  # before the import: Ray reads its settings from the environment only then

try:
    from ray import serve
except ImportError:
    raise InputError("`canvasmar serve` needs Ray Serve; install it with `pip install -e '.[serve]'`") from None

from pipeline.commands.serving.ingress import Ingress, Limits  # noqa: E402
from pipeline.commands.serving.replica import BATCH_SIZE, Replica  # noqa: E402

MAX_ONGOING: Final = 3 * BATCH_SIZE  # requests of a replica: two batches in progress, and the next one

_deployment: Any = serve.deployment  # Ray's type hints allow functions only, not classes


class Arguments(Config):
    """Arguments of the application for `serve run` and for the configuration files of Ray Serve."""

    root: str  # folder of the project
    row: str
    device: str | None  # null: one GPU per replica if there is a GPU
    replicas: str  # as of `--replicas`


def app(arguments: Mapping[str, Any]) -> Any:
    """Return the application; Ray Serve calls it: `serve run pipeline.commands.serve:app row=push-canvasmar`.

    The arguments are those of `Arguments`; only `row` has no default. Raises InputError if an argument is unknown or
    missing, or if the row is not trained.
    """
    given = {"root": ".", "device": None, "replicas": "1"} | {name: str(text) for name, text in arguments.items()}
    chosen = parse(Arguments, given, where="the arguments of the application")
    VideoPredictor.open(chosen.root, chosen.row, "cpu")  # raises InputError here, not in a replica
    return application(Path(chosen.root), chosen.row, chosen.device, replicas_of(chosen.replicas), Limits())


def application(root: Path, row: str, device: str | None, replicas: Replicas, limits: Limits) -> Any:
    """Return the Ray Serve application: the ingress and the replicas of a trained row."""
    gpus = 1.0 if torch.cuda.is_available() and device != "cpu" else 0.0
    fewest, most = (replicas, replicas) if isinstance(replicas, int) else replicas
    threads = max(1, (cpu_count() - 1) // most)  # leaves one CPU to read requests and encode pictures
    scaling: dict[str, Any] = {"num_replicas": most}
    if fewest < most:
        bounds = {"min_replicas": fewest, "max_replicas": most, "target_ongoing_requests": BATCH_SIZE}
        scaling = {"autoscaling_config": bounds}
    resources = {"num_cpus": 0.5, "num_gpus": gpus}
    model = _deployment(Replica, max_ongoing_requests=MAX_ONGOING, ray_actor_options=resources, **scaling)
    ingress = _deployment(Ingress, max_ongoing_requests=4 * limits.requests, ray_actor_options={"num_cpus": 0})
    return ingress.bind(model.bind(str(root.resolve()), row, device, threads), limits)


def listen(port: int) -> None:
    """Open the port on this machine's loopback; applications can be added later."""
    options = {"host": "127.0.0.1", "port": port, "keep_alive_timeout_s": 5}
    serve.start(http_options=options, logging_config={"log_level": "ERROR", "enable_access_log": False})


def start(root: Path, row: str, device: str | None, replicas: Replicas, port: int) -> None:
    """Start the server on this machine's loopback and return. Raise InputError if the row is not trained."""
    predictor = VideoPredictor.open(root, row, device)  # raises InputError here instead of a traceback in a replica
    if predictor.row and predictor.row.notice:
        say(f"serve: {predictor.row.notice}")
    listen(port)
    serve.run(application(root, row, device, replicas, Limits()), name="canvasmar", route_prefix="/")


def run(root: Path, row: str, device: str | None, replicas: Replicas, port: int) -> None:
    """Serve a trained row on this machine's loopback until Ctrl-C.

    Raise InputError if the row is not trained, the port is in use, or torch cannot use the device.
    """
    from pipeline.runtime import cluster

    network.require_free_port(port, "--port")
    usable_device(device)
    with cluster.connect(root):
        start(root, row, device, replicas, port)
        say(f"serve: POST a video to http://127.0.0.1:{port}/predict\nPress Ctrl-C to stop the server.")
        try:
            while True:
                time.sleep(3600)
        finally:
            serve.shutdown()
