"""The words of clips on their way to a model: the encoder that it asks for, and its cache for a training."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from components.config import Config, fingerprint
from components.data import conditions, words
from components.data.conditions import ConditionKey, Conditions, Encoder, Labels
from components.data.latents import Latents
from components.errors import InputError
from components.models.conditions import LabelConfig, asked
from components.text import TextConfig, TextEncoder
from pipeline.progress import meter

STATE = Path(".state") / "conditions"


def encoder_of(model: Config, device: torch.device) -> Encoder | None:
    """What makes vectors of words for this kind of model; None if it asks for none.

    Raises InputError where the encoder cannot be had, or gives vectors of another length than the model takes.
    """
    condition = asked(model)
    if condition is None:
        return None
    if isinstance(condition, LabelConfig):
        return Labels(condition.classes)
    encoder = TextEncoder(TextConfig(encoder=condition.encoder, tokens=condition.tokens), device)
    if encoder.numbers != condition.numbers:
        raise InputError(
            f"{condition.encoder} gives {encoder.numbers} numbers a token, but model.condition.numbers is "
            f"{condition.numbers}; set it to {encoder.numbers}"
        )
    return encoder


def prepare(model: Config, latents: Path, device: torch.device) -> Path | None:
    """The folder with the conditions of these clips, filled if it is not there; None for a model without.

    Raises InputError if the model asks for conditions and the clips have neither captions nor labels, and for words
    that its encoder does not know.
    """
    encode = encoder_of(model, device)
    if encode is None:
        return None
    files = Latents.open(latents, "train", None).files
    told = words.of(latents, files)
    if told is None:
        raise InputError(
            f"the model asks for captions or labels, and the clips behind {latents} have none; "
            "name a csv of them in datasets.….words, or set model.condition to null"
        )
    key = ConditionKey(words=files[words.FILE], encoder=encode.identity)
    folder = (STATE / fingerprint(key)).resolve()
    try:
        Conditions.open(folder, "train", key).verify()
    except InputError:
        aside = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        with meter("encode words", sum(map(len, told.values())), "clips") as shown:

            def metered(several: Sequence[str]) -> Tensor:
                found = encode(several)
                shown.advance(len(several))
                return found

            conditions.write(aside, told, metered, key)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    return folder
