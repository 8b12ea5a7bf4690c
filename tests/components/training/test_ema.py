import torch
from torch import nn

from components.training.optimizer import averaged_state, build_ema


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_averaged_weights_begin_as_the_models_own() -> None:
    trained = model()
    found = averaged_state(build_ema(trained, 0.9))
    assert all(torch.equal(found[name], tensor) for name, tensor in trained.state_dict().items())


def test_averaged_weights_are_the_closed_form_of_their_moving_average() -> None:
    """After w_1, w_2, ..., w_n: d^(n-1) w_1 + (1 - d) (d^(n-2) w_2 + ... + w_n)."""
    trained, decay, seen = model(), 0.8, []
    averaged = build_ema(trained, decay)
    for step in range(6):
        nn.init.normal_(trained.get_parameter("0.weight"), generator=torch.Generator().manual_seed(step))
        averaged.update_parameters(trained)
        seen.append(trained.get_parameter("0.weight").detach().clone())
    factors = [decay**5, *((1 - decay) * decay ** (5 - k) for k in range(1, 6))]
    expected = sum(factor * weight for factor, weight in zip(factors, seen, strict=True))
    torch.testing.assert_close(averaged_state(averaged)["0.weight"], expected)


def test_averaged_weights_have_the_models_names() -> None:
    trained = model()
    assert averaged_state(build_ema(trained, 0.9)).keys() == trained.state_dict().keys()


def test_training_the_model_leaves_the_average_alone_until_it_is_updated() -> None:
    trained = model()
    averaged = build_ema(trained, 0.9)
    before = averaged_state(averaged)["0.weight"].clone()
    nn.init.zeros_(trained.get_parameter("0.weight"))
    assert torch.equal(averaged_state(averaged)["0.weight"], before)


def test_averaged_weights_ask_for_no_gradient() -> None:
    assert not any(parameter.requires_grad for parameter in build_ema(model(), 0.9).parameters())
