from collections import Counter

import pytest

from components.datasets.selection import evaluation_clips, random_starts
from components.foundation.errors import InputError

NAMES = [f"video{v}.mp4@{frame}" for v in range(10) for frame in (0, 13, 26)]


def videos(indices: list[int], names: list[str] = NAMES) -> list[str]:
    return [names[index].rpartition("@")[0] for index in indices]


def test_every_video_gives_its_first_clip_before_any_gives_its_second() -> None:
    scored, _ = evaluation_clips(NAMES, 10)
    assert len(set(videos(scored))) == 10
    assert all(NAMES[index].endswith("@0") for index in scored)
    more, _ = evaluation_clips(NAMES, 14)
    assert more[:10] == scored
    assert all(NAMES[index].endswith("@13") for index in more[10:])


def test_the_same_clips_are_chosen_wherever_they_lie_in_the_list() -> None:
    def chosen(names: list[str]) -> list[list[str]]:
        return [[names[index] for index in indices] for indices in evaluation_clips(names, 6)]

    backwards = [f"video{v}.mp4@{frame}" for v in reversed(range(10)) for frame in (0, 13, 26)]
    assert chosen(NAMES) == chosen(backwards)


def test_the_order_of_videos_is_not_that_of_their_names() -> None:
    scored, _ = evaluation_clips(NAMES, 10)
    assert videos(scored) != sorted(videos(scored))


def test_other_clips_come_from_videos_that_are_not_scored() -> None:
    scored, others = evaluation_clips(NAMES, 4)
    assert not set(videos(scored)) & set(videos(others))
    assert len(others) == 4
    assert len(set(videos(others))) == 4


def test_where_every_video_is_scored_there_are_no_others() -> None:
    assert evaluation_clips(NAMES, 12)[1] == []


def test_there_may_be_fewer_others_than_scored() -> None:
    scored, others = evaluation_clips(NAMES, 9)
    assert len(scored) == 9
    assert Counter(videos(others)) == {videos(others)[0]: 3}


def test_no_clip_is_chosen_twice() -> None:
    scored, others = evaluation_clips(NAMES, 7)
    assert len({*scored, *others}) == len(scored) + len(others)
    assert sorted(evaluation_clips(NAMES, 30)[0]) == list(range(30))


def test_a_name_may_hold_the_sign_that_parts_it_from_its_frame() -> None:
    names = ["a@b.mp4@0", "a@b.mp4@13", "a@c.mp4@0"]
    scored, _ = evaluation_clips(names, 2)
    assert sorted(scored) == [0, 2]


def test_more_clips_than_there_are_cannot_be_scored() -> None:
    with pytest.raises(InputError, match=r"scores 31 clips, but the split has 30; lower protocol.clips"):
        evaluation_clips(NAMES, 31)


def test_random_starts_are_drawn_anew_for_every_prediction_of_a_video_and_repeat_with_the_seed() -> None:
    drawn, others = random_starts(NAMES, 6, 40, seed=0)
    assert [set(videos(drawn[i : i + 40])) for i in range(0, 240, 40)] == [
        {video} for video in dict.fromkeys(videos(evaluation_clips(NAMES, 6)[0]))
    ]
    starts = Counter(NAMES[index].rpartition("@")[2] for index in drawn)
    assert set(starts) == {"0", "13", "26"}
    assert min(starts.values()) > 50
    assert random_starts(NAMES, 6, 40, seed=0) == (drawn, others)
    assert random_starts(NAMES, 6, 40, seed=1)[0] != drawn
    assert not set(videos(others)) & set(videos(drawn))
    assert len(others) == 4 * 40


def test_more_clips_than_videos_start_at_random_in_the_first_videos_once_more() -> None:
    drawn, others = random_starts(NAMES, 14, 1, seed=0)
    assert drawn[:10] == random_starts(NAMES, 10, 1, seed=0)[0]
    assert videos(drawn[10:]) == videos(drawn[:4])
    assert drawn[10:] != drawn[:4]
    assert others == []
    with pytest.raises(InputError, match="scores 31 videos, but the split has 30 clips"):
        random_starts(NAMES, 31, 1, seed=0)
