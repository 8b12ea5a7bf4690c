"""Features that were computed once are not computed again: real ones, and those of an interrupted evaluation."""

import pytest
import torch
from safetensors.torch import save_file

from components.foundation.caching.cache import Cache
from components.foundation.errors import InputError
from components.metrics.distances import features
from components.metrics.distances.i3d import I3D
from pipeline.runtime import ray_map
from tests.pipeline.conftest import ROOT


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """I3D with weights of its own: what is cached does not depend on which."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_file(I3D().state_dict(), folder / features.NETWORK)
    return folder


@pytest.fixture
def opened(weights, tmp_path, monkeypatch):
    """The features with a cache of one clip a file, and the numbers of clips that the network was asked for."""
    monkeypatch.setattr(features, "CACHE_BATCH", 1)
    found = features.FeatureExtractor(weights, torch.device("cpu"), Cache(tmp_path / "cache"), 16, ray_map.INLINE)
    seen = []
    found.network.register_forward_pre_hook(lambda network, given: seen.append(len(given[0])))
    return found, seen


def clips(*levels):
    noise = torch.randint(0, 200, (1, 9, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return torch.cat([noise + level for level in levels])


def test_a_second_look_at_the_same_real_clips_computes_nothing_and_another_clip_only_itself(opened):
    found, seen = opened
    first = found.extract(clips(1, 2), "truth")
    assert sum(seen) == 2
    assert torch.equal(found.extract(clips(1, 2), "truth"), first)
    assert sum(seen) == 2
    assert torch.equal(found.extract(clips(2, 3), "samples")[0], first[1])
    assert sum(seen) == 3


def test_an_interrupted_look_goes_on_where_it_was(opened):
    found, seen = opened

    def stop(network, given):
        if len(seen) == 2:
            raise KeyboardInterrupt

    handle = found.network.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        found.extract(clips(1, 2), "truth")
    handle.remove()
    seen.clear()
    assert found.extract(clips(1, 2), "truth").shape == (2, 400)
    assert sum(seen) == 1


def test_another_network_has_other_features(opened, weights, tmp_path):
    found, _ = opened
    other = tmp_path / "other"
    other.mkdir()
    torch.manual_seed(1)
    save_file(I3D().state_dict(), other / features.NETWORK)
    again = features.FeatureExtractor(other, torch.device("cpu"), found.cache, 16, ray_map.INLINE)
    assert not torch.equal(found.extract(clips(1), "truth"), again.extract(clips(1), "truth"))


def test_many_places_see_what_one_sees_and_a_sentence_comes_back_from_them(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CACHE_BATCH", 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    device, batch = torch.device("cpu"), clips(1, 2, 3)

    def refuse(item):
        if item == 2:
            raise InputError("the third is bad")

    alone = features.FeatureExtractor(weights, device, Cache(tmp_path / "alone"), 16, ray_map.INLINE).extract(
        batch, "truth"
    )
    with ray_map.connect(ROOT, num_cpus=1, use_gpu=True) as many:
        assert many.num_workers > 1
        spread = features.FeatureExtractor(weights, device, Cache(tmp_path / "spread"), 16, many)
        torch.testing.assert_close(spread.extract(batch, "truth"), alone)
        assert len(list(spread.cache.folder.glob("features/*/features.safetensors"))) == 3
        with pytest.raises(InputError, match="the third is bad"):
            many(lambda: refuse, range(4), total=4, label="refuse", unit="items")
