"""Which clips are scored: as many videos as possible, the same ones on every machine."""

from collections import defaultdict
from collections.abc import Sequence

from components.errors import InputError
from components.randomness import derive


def evaluation_clips(names: Sequence[str], count: int) -> tuple[list[int], list[int]]:
    """Indices of the clips to score, and of other clips of the same kind to compare them with.

    `names` are `video@first_frame`. Videos come in an order drawn by a hash of their name; every video gives its first
    clip before any gives its second. The other clips come from videos that the first set does not touch, at most
    `count` of them. Raises InputError if there are fewer clips than asked for.
    """
    if count > len(names):
        raise InputError(f"the protocol scores {count} clips, but the split has {len(names)}; lower protocol.clips")
    chosen = ranked(names)
    scored = chosen[:count]
    touched = {_video(names[index]) for index in scored}
    others = [index for index in chosen[count:] if _video(names[index]) not in touched]
    return scored, others[:count]


def ranked(names: Sequence[str]) -> list[int]:
    """Indices of all clips in the order in which protocols score them; the first ones are those of any protocol."""
    clips = _by_video(names)
    rounds = [(turn, place, video) for place, video in enumerate(clips) for turn in range(len(clips[video]))]
    return [clips[video][turn] for turn, _, video in sorted(rounds)]


def random_starts(names: Sequence[str], videos: int, draws: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices of `draws` clips of each of so many videos, drawn anew each time, and of clips of other videos.

    Videos come in the order of `evaluation_clips`; draws of one video are neighbours, and a clip may be drawn twice.
    Clips cut at every frame (a step of 1) let a prediction start anywhere, as the debiased FVD asks. Raises InputError
    if there are fewer videos than asked for.
    """
    clips = _by_video(names)
    if videos > len(clips):
        raise InputError(f"the protocol scores {videos} videos, but the split has {len(clips)}; lower protocol.clips")
    drawn = [
        own[derive("start", seed, video, draw) % len(own)]
        for video, own in list(clips.items())[: 2 * videos]
        for draw in range(draws)
    ]
    return drawn[: videos * draws], drawn[videos * draws :]


def _video(name: str) -> str:
    return name.rpartition("@")[0]


def _by_video(names: Sequence[str]) -> dict[str, list[int]]:
    """The clips of each video, the videos in an order drawn by a hash of their names."""
    clips: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        clips[_video(name)].append(index)
    return {video: clips[video] for video in sorted(clips, key=lambda video: derive("evaluation", video))}
