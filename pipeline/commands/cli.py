"""The command `canvasmar`, with one subcommand for each task other than the stages of the pipeline.

This module imports only typer. Each subcommand imports its own module when it runs, so `canvasmar --help` and shell
completion do not wait for torch, Ray, MLflow or Gradio.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="canvasmar",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text: examples can be copied, and an error is one line
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

Row = Annotated[str, typer.Option(metavar="NAME", help="Row of the table experiments in params.yaml.")]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ...  [default: a GPU if there is one]")
]
Seeds = Annotated[list[int], typer.Option(metavar="N", help="Seed. Repeat the option for more seeds.")]
Port = Annotated[int, typer.Option(min=1, max=65535, metavar="N", help="Port on 127.0.0.1.")]


@contextmanager
def _project() -> Iterator[Path]:
    """Prepare the process for the project in the current folder, and yield this folder.

    An InputError is printed as one line on stderr and ends the process with exit status 2.
    """
    from pipeline.runtime import hidden_modules

    if files := hidden_modules.found(Path.cwd()):  # before the imports that would fail
        print(
            f"error: {', '.join(files)} in {Path.cwd()} hides Python's module of this name; rename it", file=sys.stderr
        )
        raise typer.Exit(2)
    from pipeline.runtime import stage

    with stage.command() as root:
        yield root


def _examples(*lines: str) -> str:
    """Return an epilog that lists the examples, one per line."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def _show_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"canvasmar {version('canvasmar-pipeline')}")
        raise typer.Exit


@app.callback(
    epilog=_examples(
        "canvasmar predict clip.mp4 --row push-canvasmar",
        "canvasmar predict --help",
        "canvasmar --install-completion",
    )
)
def canvasmar(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Use, inspect and submit the pipeline of the project in the current folder.

    `dvc repro` runs its stages.
    """
    if sys.platform == "win32":
        reason = "the pipeline locks files with fcntl; use Linux, macOS or WSL"
        typer.echo(f"error: Windows is not supported, because {reason}", err=True)
        raise typer.Exit(2)


@app.command(
    epilog=_examples(
        "canvasmar predict clip.mp4 --row push-canvasmar",
        "canvasmar predict clip.mp4 --row push-canvasmar --start 2.5",
        "canvasmar predict folder --row push-canvasmar --context 3 --frames 32 --futures 4 --seed 0 --seed 1",
        "canvasmar predict clip.mp4 --row push-canvasmar --set sets=8 --set temporal_scale=1.5",
    )
)
def predict(
    row: Row,
    video: Annotated[
        Path | None,
        typer.Argument(metavar="VIDEO", help="Video file, or folder of them.  [default: the row's shipped example]"),
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Start of the context in the video.  [default: continue from its end]"),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of context frames.  [default: 5, or all of a shorter video]"),
    ] = None,
    frames: Annotated[int, typer.Option(metavar="N", help="Number of frames to predict.")] = 16,
    futures: Annotated[int, typer.Option(metavar="N", help="Predictions for each seed, computed as one batch.")] = 1,
    seed: Seeds = [0],  # noqa: B006
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Sampler setting that replaces the one of the search. Repeat the option for more settings.",
        ),
    ] = [],  # noqa: B006
    words: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Caption or label, for a row that was trained with captions or labels."),
    ] = None,
    actions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV file with the columns video, frame and the actions, for a row that was trained with actions.",
        ),
    ] = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Output folder.  [default: predictions/<row>]")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(min=1, max=32, metavar="N", help="Enlarge pictures N times.  [default: to about 256 pixels]"),
    ] = None,
) -> None:
    """Continue videos with a trained row, or with shipped weights.

    For a row that is not trained here, the weights in pretrained/ are used. The context is the end of each video, or
    begins at --start. Prints what was done to each file: crop, size, frame rate, seconds. Writes for each video an MP4
    and a GIF of context and prediction, a PNG strip, and an MP4 of truth, canvas, order and prediction side by side;
    and timing.json for all videos together.
    """
    with _project() as root:
        from pipeline.commands.predict import Options, run

        run(Options(
            video=video, row=row, start=start, context=context, frames=frames, futures=futures, seeds=seed,
            settings=settings, words=words, actions=actions, device=device, out=out, scale=scale,
        ), root)  # fmt: skip


@app.command(epilog=_examples("canvasmar demo", "canvasmar demo --port 8080 --device cpu"))
def demo(port: Port = 7860, device: Device = None) -> None:
    """Serve a web page that predicts with all trained rows.

    The server listens on 127.0.0.1 only, and runs until Ctrl-C.
    """
    with _project() as root:
        from pipeline.commands.demo import run

        run(root, port, device)


@app.command(
    epilog=_examples(
        "canvasmar serve --row push-canvasmar",
        "canvasmar serve --row push-canvasmar --replicas 2 --port 8080",
    )
)
def serve(
    row: Row,
    replicas: Annotated[
        str,
        typer.Option(metavar="N|N:N", help="Number of model replicas; or the fewest and the most, by the load."),
    ] = "1",
    port: Port = 8000,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="cpu, cuda, ...  [default: one GPU per replica if there is a GPU]"),
    ] = None,
) -> None:
    """Serve a trained row over HTTP.

    The server listens on 127.0.0.1 only, and runs until Ctrl-C.
    """
    with _project() as root:
        from pipeline.commands.serve import run
        from pipeline.commands.serving.scaling import replicas_of

        run(root, row, device, replicas_of(replicas), port)


@app.command(
    epilog=_examples(
        "canvasmar submit --address http://127.0.0.1:8265",
        "canvasmar submit push-canvasmar --check",
        "canvasmar submit train@push-canvasmar --detach",
        "canvasmar submit --code-only --remote storage --gpus 1",
        "canvasmar submit --list",
        "canvasmar submit --follow everything-1130-101500-a1b2",
    )
)
def submit(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="STAGE|ROW", help="Stage (train, train@ROW) or row of experiments.  [default: everything]"
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of the Ray dashboard.  [default: RAY_API_SERVER_ADDRESS]")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Path of this project on the cluster.  [default: this folder]")
    ] = None,
    code_only: Annotated[
        bool, typer.Option("--code-only", help="Send the code to one node; data travel through a DVC remote.")
    ] = False,
    remote: Annotated[
        str | None, typer.Option(metavar="NAME", help="DVC remote for --code-only.  [default: that of .dvc/config]")
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Python on the cluster.  [default: path of this Python; python with --code-only]"
        ),
    ] = None,
    cpus: Annotated[
        float,
        typer.Option(min=0, metavar="N", help="CPUs reserved for the job on its node; at least 1 if --code-only."),
    ] = 0.0,
    gpus: Annotated[float, typer.Option(min=0, metavar="N", help="GPUs reserved for the job on its node.")] = 0.0,
    check: Annotated[bool, typer.Option("--check", help="Check the cluster and submit nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Submit the job and exit.")] = False,
    list_jobs: Annotated[bool, typer.Option("--list", help="List the jobs of the cluster.")] = False,
    status: Annotated[str | None, typer.Option(metavar="ID", help="Print the status of a job.")] = None,
    stop: Annotated[
        str | None, typer.Option(metavar="ID", help="Stop a job; a training run writes a checkpoint first.")
    ] = None,
    follow: Annotated[
        str | None, typer.Option(metavar="ID", help="Show the log of a job until it ends, and fetch its results.")
    ] = None,
) -> None:
    """Run `dvc repro` as a Ray Job on a cluster.

    Checks the cluster first, shows the log of the job, and exits with the status of the job. Ctrl-C asks whether to
    stop the job or to detach.
    """
    with _project() as here:
        from pipeline.jobs.submit import Options, run

        options = Options(
            target=target, address=address, root=root, code_only=code_only, remote=remote, python=python, cpus=cpus,
            gpus=gpus, check=check, detach=detach, list_jobs=list_jobs, status=status, stop=stop, follow=follow,
        )  # fmt: skip
        raise typer.Exit(run(options, here))


@app.command(
    epilog=_examples(
        "canvasmar plan --row push-canvasmar",
        "canvasmar plan --row bair-canvasmar --params presets/bair.yaml --rate 200 --rate 400",
    )
)
def plan(
    row: Row,
    params: Annotated[Path, typer.Option(metavar="FILE", help="Params file or preset.")] = Path("params.yaml"),
    rate: Annotated[
        list[float],
        typer.Option(
            metavar="TFLOP/S",
            help="TFLOP/s of one worker, for the estimated time. Repeat the option for more rates. "
            "Training runs log their rate as teraflops_per_second.",
        ),
    ] = [1.0, 10.0, 100.0],  # noqa: B006
) -> None:
    """Estimate the cost of a training run before it starts.

    Prints parameters, tokens, FLOPs, memory and time, or all problems of the params file. Needs no data.
    """
    with _project():
        from pipeline.commands.plan import run

        raise typer.Exit(run(row, params, rate))


@app.command(epilog=_examples("canvasmar preset --list", "canvasmar preset own-videos", "canvasmar preset default"))
def preset(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of a file in presets/.")] = None,
    list_presets: Annotated[
        bool, typer.Option("--list", help="List what each preset is, needs and costs, and what has been run of it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite params.yaml even if it has changes that are not committed.")
    ] = False,
) -> None:
    """Write a preset as params.yaml.

    A preset holds only its differences from presets/default.yaml. `canvasmar preset default` restores the default.
    """
    if (name is None) != list_presets:
        raise typer.BadParameter("give the name of a preset, or --list")
    with _project() as root:
        from pipeline.checks.preset import run

        run(root, name, force)


@app.command(epilog=_examples("canvasmar check", "canvasmar check --params presets/kuka.yaml"))
def check(
    params: Annotated[Path, typer.Option(metavar="FILE", help="Params file or preset.")] = Path("params.yaml"),
) -> None:
    """Find every problem of params.yaml before anything runs.

    Checks every setting, the entries of each row against each other, and the videos and clips on disk: that there are
    enough, and that DVC can read them and detects their changes. Exits with status 2 if there are problems.
    """
    with _project():
        from pipeline.checks.command import run

        raise typer.Exit(run(params))


@app.command(epilog=_examples("canvasmar verify data/evaluations/push-canvasmar"))
def verify(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Output of a stage, such as data/evaluations/push-canvasmar.")
    ],
) -> None:
    """Trace an output back to its videos.

    Checks the hash of every file of every output in between, and exits with status 1 if one does not match.
    """
    with _project() as root:
        from components.telemetry import verification

        raise typer.Exit(1 if verification.verify(root, path) else 0)


@app.command(
    epilog=_examples(
        "canvasmar repair --clips data/clips/push --videos data/videos/push",
        "canvasmar repair --clips data/clips/push --latents data/latents/push-vae \\",
        "    --autoencoder data/autoencoders/push-vae",
        "canvasmar repair --clips data/clips/push --videos data/videos/push --check",
    )
)
def repair(
    clips: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of clips, such as data/clips/push.")],
    videos: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Videos of the clips, such as data/videos/push; repairs the clips."),
    ] = None,
    autoencoder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="VAE of the latents, such as data/autoencoders/push-vae.")
    ] = None,
    latents: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of latents, such as data/latents/push-vae; repairs the latents."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="List the damaged shards and change nothing.")] = False,
) -> None:
    """Repair damaged and missing shards of clips or latents.

    Finds them by the hash of every shard, and changes no other shard.
    """
    with _project():
        from pipeline.commands.repair import run

        run(clips, videos, autoencoder, latents, check)


@app.command(epilog=_examples("canvasmar ui", "MLFLOW_UI_PORT=5001 canvasmar ui"))
def ui() -> None:
    """Start the MLflow UI and print links to its pages.

    The server listens on 127.0.0.1 only, on port MLFLOW_UI_PORT (5000 by default).
    """
    with _project() as root:
        from pipeline.commands.ui import run

        run(root)


if __name__ == "__main__":
    app(prog_name="canvasmar")
