"""The number of replicas, as a command line writes it."""

from components.foundation.errors import InputError

Replicas = int | tuple[int, int]  # as many, or the fewest and the most, by the number of requests


def replicas_of(text: str) -> Replicas:
    """Return the replicas of a text: `2`, or `1:4`. Raise InputError if it is neither."""
    numbers = text.split(":")
    if len(numbers) <= 2 and all(number.isdigit() for number in numbers):
        fewest, most = int(numbers[0]), int(numbers[-1])
        if 1 <= fewest <= most:
            return most if fewest == most else (fewest, most)
    raise InputError(f"--replicas is {text!r}; write a number, such as 2, or the fewest and the most, such as 1:4")
