"""Select the clips that a protocol scores: from as many videos as possible, and the same on every machine."""

from collections import defaultdict
from collections.abc import Sequence

from components.foundation.errors import InputError
from components.foundation.randomness import derive


def evaluation_clips(names: Sequence[str], count: int) -> tuple[list[int], list[int]]:
    """Return the indices of the `count` clips to score, and of at most `count` reference clips of other videos.

    `names` are `video@first_frame`. Clips are taken in rounds, one clip per video in each round, with the videos in the
    order of a hash of their names. Raises InputError if there are fewer than `count` clips.
    """
    if count > len(names):
        raise InputError(f"the protocol scores {count} clips, but the split has {len(names)}; lower protocol.clips")
    chosen = ranked(names)
    scored = chosen[:count]
    videos = {_video(names[index]) for index in scored}
    others = [index for index in chosen[count:] if _video(names[index]) not in videos]
    return scored, others[:count]


def ranked(names: Sequence[str]) -> list[int]:
    """Return the indices of all clips in scoring order: a protocol of n clips scores the first n."""
    clips = _by_video(names)
    rounds = [(turn, position, video) for position, video in enumerate(clips) for turn in range(len(clips[video]))]
    return [clips[video][turn] for turn, _, video in sorted(rounds)]


def random_starts(names: Sequence[str], videos: int, draws: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of `draws` random clips from each of `videos` videos, and of equally many reference clips.

    The reference clips are from other videos, of which there may be fewer than `videos`. Videos are ordered as in
    `evaluation_clips`; if the split has fewer than `videos`, the order repeats from its start. The draws of one video
    are adjacent, and a clip may be drawn twice. Clips cut with a step of 1 let predictions start at any frame, as the
    debiased FVD requires. Raises InputError if there are fewer clips than `videos`.
    """
    if videos > len(names):
        raise InputError(
            f"the protocol scores {videos} videos, but the split has {len(names)} clips; lower protocol.clips"
        )
    clips = _by_video(names)
    turns = [(turn, video) for turn in range(-(-videos // len(clips))) for video in clips]
    others = [(0, video) for video in list(clips)[videos : 2 * videos]]

    def drawn(chosen: Sequence[tuple[int, str]]) -> list[int]:
        return [
            clips[video][derive("start", seed, video, turn * draws + draw) % len(clips[video])]
            for turn, video in chosen
            for draw in range(draws)
        ]

    return drawn(turns[:videos]), drawn(others)


def _video(name: str) -> str:
    return name.rpartition("@")[0]


def _by_video(names: Sequence[str]) -> dict[str, list[int]]:
    """Return the indices of each video's clips; a hash of the names orders the videos."""
    clips: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        clips[_video(name)].append(index)
    return {video: clips[video] for video in sorted(clips, key=lambda video: derive("evaluation", video))}
