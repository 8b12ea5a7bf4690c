import io

import numpy as np
import pytest
from PIL import Image

from components.pictures import galleries, records


@pytest.fixture
def gallery(finished):
    return records.read_gallery(finished / "with-canvas" / "evaluation")


def lane(film, name):
    return next(lane for lane in film.lanes if lane.name == name)


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("latents", "frames", "places"),
    [
        (9, 17, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]),
        (8, 16, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
        (5, 17, [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4]),
        (4, 4, [0, 1, 2, 3]),
        (1, 3, [0, 0, 0]),
        (2, 1, [0]),
    ],
)
def test_pixel_frames_find_their_latent_frame(latents, frames, places):
    assert galleries.nearest(latents, frames).tolist() == places


@pytest.mark.parametrize(("latents", "frames"), [(3, 11), (7, 16), (5, 4)])
def test_any_ratio_keeps_order_and_range(latents, frames):
    places = galleries.nearest(latents, frames)
    assert (np.diff(places) >= 0).all()
    assert 0 <= places.min() <= places.max() < latents


def test_a_film_has_every_lane_and_the_context_only_beside_the_truth(gallery):
    film = galleries.filmstrip(gallery, 1)
    assert [lane.name for lane in film.lanes] == ["context | truth", "canvas", "staticness", "order", "sample", "error"]
    assert film.indices == tuple(range(9))
    assert film.context == 1
    assert lane(film, "context | truth").present.all()
    assert not lane(film, "sample").present[0]
    assert (lane(film, "sample").frames[1:] == gallery.sample[1].transpose(0, 2, 3, 1)).all()


def test_without_a_canvas_there_is_neither_canvas_nor_staticness(finished):
    film = galleries.filmstrip(records.read_gallery(finished / "no-canvas" / "evaluation"), 0)
    assert [lane.name for lane in film.lanes] == ["context | truth", "order", "sample", "error"]


def test_a_token_colours_its_own_part_of_each_frame_it_belongs_to(gallery):
    staticness = np.zeros((2, 4, 2, 2), np.float32)
    staticness[0, 1, 0, 1] = 1.0
    marked = lane(galleries.filmstrip(records.Gallery(**fields(gallery) | {"staticness": staticness}), 0), "staticness")
    low, high = (galleries._coloured(np.array([end]), galleries.STATIC_SCALE)[0] for end in (0.0, 1.0))
    bright = (marked.frames == high).all(-1)
    assert bright[3:5, :8, 8:].all()  # latent frame 1 is predicted frames 2 and 3; the context comes before
    assert bright.sum() == 2 * 8 * 8
    assert (marked.frames[1:][~bright[1:]] == low).all()


def test_no_error_is_black_and_a_large_one_bright(gallery):
    same = galleries.filmstrip(records.Gallery(**fields(gallery) | {"sample": gallery.truth}), 0)
    dark = galleries._coloured(np.zeros(1), galleries.ERROR_SCALE)[0]
    assert (lane(same, "error").frames[1:] == dark).all()
    far = records.Gallery(**fields(gallery) | {"truth": gallery.truth * 0, "sample": gallery.truth * 0 + 255})
    bright = galleries._coloured(np.ones(1), galleries.ERROR_SCALE)[0]
    assert (lane(galleries.filmstrip(far, 0), "error").frames[1:] == bright).all()


def test_long_clips_are_shown_at_even_places_from_first_to_last(gallery):
    long = {name: np.repeat(getattr(gallery, name), 8, 1) for name in ("truth", "sample", "context")}
    film = galleries.filmstrip(records.Gallery(**fields(gallery) | long), 0)
    assert film.context == galleries.MAX_CONTEXT_FRAMES
    assert len(film.indices) == galleries.MAX_CONTEXT_FRAMES + galleries.MAX_FRAMES
    assert (film.indices[0], film.indices[galleries.MAX_CONTEXT_FRAMES], film.indices[-1]) == (4, 8, 71)


def test_a_strip_holds_the_frames_untouched_and_is_clear_between(gallery):
    film = galleries.filmstrip(gallery, 0)
    strip = pixels(galleries.strip(film.lanes[0], film.context))
    middles, width = galleries.centres(film)
    assert strip.shape == (16, width, 4)
    left = int(middles[3]) - 8
    assert (strip[:, left : left + 16, :3] == gallery.truth[0, 2].transpose(1, 2, 0)).all()
    assert (strip[:, left - 1, 3] == 0).all()
    assert middles[1] - middles[0] > middles[2] - middles[1]
    assert (pixels(galleries.strip(lane(film, "sample"), film.context))[:, :16, 3] == 0).all()


def test_an_animation_plays_every_frame_for_ever_and_shows_the_sample(gallery):
    motion = Image.open(io.BytesIO(galleries.animation(gallery, 0)))
    assert (motion.n_frames, motion.info["loop"]) == (9, 0)
    motion.seek(4)
    last = np.asarray(motion.convert("RGB"))
    assert (last[26 : 26 + 48, -48:] == gallery.sample[0, 3].transpose(1, 2, 0).repeat(3, 0).repeat(3, 1)).all()


def test_a_sheet_is_the_same_every_time_and_holds_all_lanes(gallery):
    film = galleries.filmstrip(gallery, 0)
    sheet = galleries.sheet(film)
    assert sheet == galleries.sheet(film)
    assert pixels(sheet).shape[0] > len(film.lanes) * 96


def test_reconstructions_are_shown_before_and_after(finished):
    film = galleries.reconstruction_filmstrip(records.read_reconstructions(finished / "vae"), 1)
    assert [lane.name for lane in film.lanes] == ["real", "reconstructed", "error"]
    assert film.indices == tuple(range(9))


def fields(gallery):
    return {name: getattr(gallery, name) for name in gallery.__slots__}
