import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.foundation.config import parse
from components.foundation.errors import InputError
from components.foundation.randomness import Stream
from components.nn.autoencoders.folded import CausalVAE, CausalVAEConfig
from components.nn.autoencoders.interface import to_float
from components.nn.autoencoders.objective import (
    AdversarialConfig,
    LPIPSConfig,
    ObjectiveConfig,
    VAEObjective,
    divergence,
    psnr,
)
from components.nn.lpips import LPIPS

JUDGED = LPIPSConfig(weight=0.5, net="alex", stages=2, frames=3)


def clips(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def vae(objective: ObjectiveConfig) -> CausalVAE:
    torch.manual_seed(0)
    settings = {
        "kind": "causal",
        "dataset": "shapes",
        "recipe": "vae",
        "frames": 5,
        "resolution": [32, 32],
        "precision": "float32",
        "channels": 4,
    }
    shape = {"stride_time": 2, "stride_space": 8, "width": 8, "depth": 1, "linear": None}
    shape |= {"objective": objective.model_dump()}
    return parse(CausalVAEConfig, settings | shape, where="test").build()


def plain(reconstruction: str = "l1") -> VAEObjective:
    config = parse(
        ObjectiveConfig, {"reconstruction": reconstruction, "kl": 0.5, "lpips": None, "adversarial": None}, where="test"
    )
    return config.build(vae(config), Path("never read"))


def judged() -> VAEObjective:
    """With a judge of random weights, which is enough to see where its gradients and weights go."""
    config = ObjectiveConfig(reconstruction="l1", kl=0.5, lpips=JUDGED, adversarial=None)
    torch.manual_seed(1)
    judge = LPIPS("alex", 2)
    for head in judge.heads:
        nn.init.ones_(head)
    return VAEObjective(vae(config), config, judge)


def test_a_clip_draws_the_same_in_any_batch() -> None:
    objective, x = judged(), clips(3)
    together = objective.draw(x, Stream.of(0, (4, 5, 6)))
    alone = objective.draw(x[1:2], Stream.of(0, (5,)))
    assert torch.equal(together.noise[1:2], alone.noise)
    assert torch.equal(together.frames[1:2], alone.frames)
    assert together.noise.shape == (3, 3, 4, 4, 4)


def test_the_judged_frames_are_different_ones_of_each_clip() -> None:
    frames = judged().draw(clips(2).repeat(20, 1, 1, 1, 1), Stream.of(0, range(40))).frames
    assert frames.shape == (40, 3)
    assert all(len(set(row)) == 3 and set(row) <= set(range(5)) for row in frames.tolist())
    assert set(frames.flatten().tolist()) == set(range(5))


def test_forward_is_a_function_of_clips_and_draws() -> None:
    objective, x = judged(), clips(2)
    draws = objective.draw(x, Stream.of(0, (0, 1)))
    first, again = objective(x, draws), objective(to_float(x), draws)
    assert torch.equal(first.total, again.total)
    assert set(first.terms) == {"reconstruction", "kl", "lpips", "psnr"}


def test_the_total_is_reconstruction_plus_the_weighted_rest() -> None:
    objective, x = judged(), clips(2)
    losses = objective(x, objective.draw(x, Stream.of(0, (0, 1))))
    terms = {name: term.item() for name, term in losses.terms.items()}
    assert losses.total.item() == pytest.approx(terms["reconstruction"] + 0.5 * terms["kl"] + 0.5 * terms["lpips"])


@pytest.mark.parametrize(("reconstruction", "value"), [("l1", 0.4), ("mse", 0.16), ("huber", 0.25)])
def test_the_reconstruction_of_a_grey_clip_by_a_decoder_that_is_off(reconstruction: str, value: float) -> None:
    objective = plain(reconstruction)
    for parameter in objective.parameters():
        nn.init.zeros_(parameter)  # decodes to zero, whatever comes in
    x = torch.full((1, 5, 3, 32, 32), 0.4)
    losses = objective(x, objective.draw(x, Stream.of(0, (0,))))
    assert losses.terms["reconstruction"].item() == pytest.approx(value, abs=1e-6)
    assert losses.terms["kl"].item() == 0.0
    assert losses.terms["psnr"].item() == pytest.approx(20 * math.log10(2 / 0.4), abs=1e-4)


def test_the_divergence_is_that_of_gaussians() -> None:
    mean, log_variance = torch.full((1, 2, 3, 4, 4), 0.5), torch.full((1, 2, 3, 4, 4), -1.0)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean()
    assert divergence(torch.cat([mean, log_variance], dim=2)).item() == pytest.approx(expected.item(), abs=1e-6)


def test_psnr_is_of_each_clip_and_ignores_what_is_clamped() -> None:
    x = torch.zeros(2, 1, 3, 4, 4)
    x[1] = 1.0
    y = torch.stack([x[0] + 0.2, x[1] + 5.0])
    assert psnr(x, y)[0].item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(x, y)[1].item() >= 100.0


def test_the_judge_is_neither_trained_nor_saved_but_its_gradient_reaches_the_decoder() -> None:
    objective, x = judged(), clips(1)
    assert all(name.startswith("autoencoder.") for name in objective.state_dict())
    assert {id(p) for p in objective.parameters()} == {id(p) for p in objective.autoencoder.parameters()}
    blind = VAEObjective(objective.autoencoder, objective.config.model_copy(update={"lpips": None}), None)
    draws = objective.draw(x, Stream.of(0, (0,)))
    gradients = []
    for either in (objective, blind):
        objective.zero_grad()
        either(x, draws).total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None]))
    assert gradients[0].isfinite().all()
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3)


def test_the_judge_moves_with_the_rest() -> None:
    objective = judged().double()
    assert all(p.dtype == torch.float64 for judge in objective._lpips for p in judge.parameters())


def test_clips_shorter_than_the_judged_frames_are_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"objective\.lpips\.frames is 3, but the clips have 1 frames; use at most 1"):
        judged().draw(clips(1)[:, :1], Stream.of(0, (0,)))


def test_missing_weights_of_the_judge_are_an_error_and_without_a_judge_they_are_not_read(tmp_path: Path) -> None:
    config = ObjectiveConfig(reconstruction="l1", kl=0.0, lpips=JUDGED, adversarial=None)
    with pytest.raises(InputError, match="does not exist"):
        config.build(vae(config), tmp_path / "lpips.safetensors")
    plain()


def test_a_step_of_training_makes_the_loss_smaller_in_bfloat16_too() -> None:
    objective, x = judged(), clips(2)
    draws = objective.draw(x, Stream.of(0, (0, 1)))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    totals = []
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16):
            losses = objective(x, draws)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        totals.append(losses.total.item())
    assert totals[-1] < totals[0]


ADVERSARIAL = AdversarialConfig(weight=0.1, start=3, pairs=2, width=4, depth=2)


def fought() -> VAEObjective:
    config = ObjectiveConfig(reconstruction="l1", kl=0.5, lpips=None, adversarial=ADVERSARIAL)
    return config.build(vae(config), Path("never read"))


def test_the_adversary_waits_for_its_step_and_is_not_asked_in_validation() -> None:
    objective, x = fought(), clips(2)
    stream = Stream.of(0, (0, 1))
    counts = [objective.draw(x, stream.fork("step", step)).pairs.shape[1] for step in (0, 2, 3, 4)]
    assert counts == [0, 0, 2, 2]
    assert objective.draw(x, stream.fork("validation")).pairs.shape == (2, 0)
    early = objective(x, objective.draw(x, stream.fork("step", 2)))
    assert early.terms["fooling"].item() == early.terms["telling"].item() == 0.0
    early.total.backward()
    assert all(p.grad is not None for p in objective.parameters())  # workers that exchange gradients wait for each
    assert all(p.grad.eq(0).all() for name, p in objective.named_parameters() if name.startswith("adversary"))
    objective.eval()
    assert set(objective(x, objective.draw(x, stream.fork("validation"))).terms) == {"reconstruction", "kl", "psnr"}


def test_each_adversarial_term_reaches_only_what_it_is_meant_to_change() -> None:
    objective = fought()
    adversary = objective.adversary
    assert adversary is not None
    real, fake = torch.rand(3, 6, 32, 32), torch.rand(3, 6, 32, 32, requires_grad=True)
    losses = adversary.losses(real, fake)
    losses["telling"].backward(retain_graph=True)
    assert fake.grad is None
    assert all(p.grad is not None for p in adversary.parameters())
    adversary.zero_grad()
    losses["fooling"].backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is None for p in adversary.parameters())


def test_an_adversary_learns_to_tell_and_none_of_it_is_decayed() -> None:
    torch.manual_seed(0)
    objective = fought()
    adversary = objective.adversary
    assert adversary is not None
    optimizer = torch.optim.AdamW(adversary.parameters(), lr=1e-2)
    real, fake = torch.rand(8, 6, 16, 16), torch.rand(8, 6, 16, 16).round()
    for _ in range(40):
        telling = adversary.losses(real, fake)["telling"]
        optimizer.zero_grad()
        telling.backward()
        optimizer.step()
    assert telling.item() < 0.2  # 1 is a guess
    assert objective.no_weight_decay() == {f"adversary.{name}" for name, _ in adversary.named_parameters()}
