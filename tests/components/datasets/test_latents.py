import json
import pickle

import pytest
import torch

from components.datasets import latents
from components.datasets.latents import ChannelStatistics, LatentKey, Latents, ShardReport
from components.foundation import config
from components.foundation.errors import InputError
from components.nn.autoencoders import interface

KEY = LatentKey(autoencoder="a1", clips="c1", settings={"precision": "float32", "tile": None})
ROWS = {"train": (3, 5, 2), "val": (2,), "test": (1, 2)}  # rows of each shard


def make(seed, rows):
    """Moments of two channels, three frames of 4 x 5: means near 2 and -50, deviations near 0.1 and 3."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, 3, 4, 4, 5, generator=generator)
    centre = torch.tensor([2.0, -50.0, -4.6, 2.2])[:, None, None]
    return noise * torch.tensor([1.0, 5.0, 0.3, 0.2])[:, None, None] + centre


@pytest.fixture
def moments():
    return {
        split: [make(100 * part + len(split), rows) for part, rows in enumerate(parts)] for split, parts in ROWS.items()
    }


def write(folder, moments, key=KEY, turn=1):
    jobs = [(split, part) for split in moments for part in range(len(moments[split]))][::turn]
    reports = [latents.write_shard(folder, split, part, moments[split][part]) for split, part in jobs]
    return latents.finish(folder, reports, key, {})


def test_moments_come_back_bit_for_bit_in_the_order_of_the_shards(tmp_path, moments):
    numbers = write(tmp_path, moments)
    assert numbers["latents_train"] == 10
    for split, parts in moments.items():
        stored = Latents.open(tmp_path, split, KEY)
        assert (len(stored), stored.shape) == (sum(ROWS[split]), (3, 2, 4, 5))
        assert torch.equal(stored.moments(range(len(stored))), torch.cat(parts))
    assert torch.equal(Latents.open(tmp_path, "train", None).moments([9, 0]), torch.cat(moments["train"])[[9, 0]])


def test_statistics_are_those_of_the_mixture_of_all_posteriors(tmp_path, moments):
    write(tmp_path, moments)
    mean, log_variance = torch.cat(moments["train"]).double().chunk(2, dim=2)
    wanted = mean.mean((0, 1, 3, 4))
    variance = mean.var((0, 1, 3, 4), correction=0) + log_variance.exp().mean((0, 1, 3, 4))
    stored = Latents.open(tmp_path, "train", KEY)
    torch.testing.assert_close(stored.mean, wanted.float())
    torch.testing.assert_close(stored.std, variance.sqrt().float())


def test_standardised_samples_have_mean_zero_and_deviation_one(tmp_path, moments):
    write(tmp_path, moments)
    stored = Latents.open(tmp_path, "train", KEY)
    every = stored.moments(range(len(stored))).repeat(40, 1, 1, 1, 1)
    noise = torch.randn(every.chunk(2, dim=2)[0].shape, generator=torch.Generator().manual_seed(0))
    samples = latents.standardise(interface.sample(every, noise), stored.mean, stored.std)
    torch.testing.assert_close(samples.mean((0, 1, 3, 4)), torch.zeros(2), atol=0.02, rtol=0)
    torch.testing.assert_close(samples.std((0, 1, 3, 4)), torch.ones(2), atol=0.02, rtol=0)


def test_statistics_do_not_look_at_val_and_test(tmp_path, moments):
    write(tmp_path / "a", moments)
    write(tmp_path / "b", {**moments, "test": [part * 3 for part in moments["test"][:1]]})
    contents = [(tmp_path / name / "statistics.json").read_bytes() for name in "ab"]
    assert contents[0] == contents[1]


def test_spreads_add_up_to_the_spread_of_the_whole(moments):
    whole = ChannelStatistics.of(torch.cat(moments["train"]))
    first, second, third = map(ChannelStatistics.of, moments["train"])
    for total in ((first + second) + third, first + (second + third), third + first + second):
        assert total.count == whole.count
        assert total.mean == pytest.approx(whole.mean, rel=1e-12)
        assert total.scatter == pytest.approx(whole.scatter, rel=1e-12)


def test_the_bytes_do_not_depend_on_the_order_of_the_work(tmp_path, moments):
    write(tmp_path / "a", moments)
    write(tmp_path / "b", moments, turn=-1)
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab")
    assert a == b
    assert len(a) == 8


def test_a_report_survives_json_and_pickle(tmp_path, moments):
    report = latents.write_shard(tmp_path, "val", 0, moments["val"][0])
    assert config.parse(ShardReport, json.loads(json.dumps(config.plain(report))), where="report") == report
    assert pickle.loads(pickle.dumps(report)) == report


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"autoencoder": "a2"}, "autoencoder 'a1' instead of 'a2'; run `dvc repro` to make them again"),
        ({"clips": "c9"}, "clips 'c1' instead of 'c9'"),
        ({"settings": {"precision": "bfloat16", "tile": None}}, "settings.precision 'float32' instead of 'bfloat16'"),
        ({"settings": {"precision": "float32", "tile": 4}}, "settings.tile None instead of 4"),
        (
            {"settings": {**KEY.settings, "preprocessing": {"resolution": [64, 64]}}},
            r"settings.preprocessing.resolution None instead of \[64, 64\]",
        ),
    ],
)
def test_a_stale_key_is_refused_with_the_field_that_differs(tmp_path, moments, changes, words):
    write(tmp_path, moments)
    expect = KEY.model_copy(update=changes)
    with pytest.raises(InputError, match=words) as refused:
        Latents.open(tmp_path, "train", expect)
    assert "stale" in str(refused.value)
    assert Latents.open(tmp_path, "train", None).key == KEY


def test_a_key_is_part_of_the_hash(tmp_path, moments):
    write(tmp_path / "a", moments)
    write(tmp_path / "b", moments, KEY.model_copy(update={"clips": "c2"}))
    hashes = [Latents.open(tmp_path / name, "val", None).hash for name in "ab"]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize(("number", "channel"), [("nan", 0), ("inf", 1), ("-inf", 2), ("100", 3)])
def test_moments_that_are_not_finite_are_named_by_shard_and_row(tmp_path, moments, number, channel):
    damaged = moments["train"][1]
    damaged[3, 2, channel, 1, 1] = float(number)
    with pytest.raises(InputError, match=r"row 3 of shard train-00001 are not finite \(1 of 5 rows\)"):
        latents.write_shard(tmp_path, "train", 1, damaged)
    assert not list(tmp_path.iterdir())


def test_a_channel_that_never_changes_is_refused(tmp_path, moments):
    dead = moments["train"][0]
    dead[:, :, 1], dead[:, :, 3] = 7.0, -80.0
    with pytest.raises(InputError, match="channel 1 of the latents never changes"):
        write(tmp_path, {"train": [dead]})
    assert not (tmp_path / "manifest.json").exists()


def test_moments_without_a_split_to_train_on_are_refused(tmp_path, moments):
    with pytest.raises(InputError, match="no moments of the split train"):
        write(tmp_path, {"test": moments["test"]})


def test_shards_of_different_shapes_are_a_mistake(tmp_path, moments):
    with pytest.raises(ValueError, match="different shapes"):
        write(tmp_path, {**moments, "val": [moments["val"][0][:, :2]]})


def test_verify_names_a_damaged_shard_and_damaged_statistics(tmp_path, moments):
    write(tmp_path, moments)
    stored = Latents.open(tmp_path, "train", KEY)
    stored.verify()
    shard, statistics = tmp_path / "train-00001.safetensors", tmp_path / "statistics.json"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"train-00001\.safetensors is damaged"):
        stored.verify()
    statistics.write_text(statistics.read_text().replace("1", "2"))
    with pytest.raises(InputError, match=r"statistics\.json is damaged"):
        stored.verify()
    statistics.write_text('{"mean": [0.0]}')
    with pytest.raises(InputError, match=r"statistics\.json cannot be read"):
        Latents.open(tmp_path, "train", KEY)


def test_clips_are_no_latents(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json does not exist"):
        Latents.open(tmp_path, "train", None)
    (tmp_path / "manifest.json").write_text('{"hash": "0", "shards": [], "counts": {}, "files": {}, "frames": 17}')
    with pytest.raises(InputError, match="missing key key"):
        Latents.open(tmp_path, "train", None)


def test_a_sample_without_noise_is_the_mean_and_noise_is_scaled_by_the_deviation():
    moments = make(0, 2)
    mean, log_variance = moments.chunk(2, dim=2)
    assert torch.equal(interface.sample(moments, torch.zeros_like(mean)), mean)
    torch.testing.assert_close(interface.sample(moments, torch.ones_like(mean)) - mean, log_variance.exp().sqrt())


def test_restoring_undoes_standardising():
    values, mean, std = make(1, 2), torch.arange(4.0), torch.tensor([0.1, 1.0, 5.0, 20.0])
    torch.testing.assert_close(latents.restore(latents.standardise(values, mean, std), mean, std), values)
