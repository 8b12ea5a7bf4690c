"""Search algorithms by name: the project's own, which suggest in rounds, and the searchers of Ray Tune."""

from collections.abc import Sequence
from typing import Any

from components.foundation.errors import InputError
from pipeline.tuning.search_space import Setting
from pipeline.tuning.suggest import FixedList, LibraryPart, Optuna, SearchSettings, grid_points, random_settings


def build_suggester(first: Setting, search: SearchSettings, metrics: Sequence[str]) -> Any:
    """Return what suggests `first` and then other settings of the space, at most `trials` in all.

    This is a Suggester, or for a searcher of Ray Tune, which minimises `metrics`, a `searchers.LibrarySearcher`. A
    round of Optuna has `concurrent` trials. Raise InputError if the space is empty, if the algorithm is grid and the
    space has a range or too many points, or if Ray Tune has no such searcher or the searcher refuses its options.
    """
    space, trials = search.space, search.trials
    if not space and trials > 1:
        raise InputError(
            f"the search space is empty, so {trials} trials have nothing to vary; add settings, or set trials to 1"
        )
    if search.algorithm == "grid":
        return FixedList([first, *(point for point in grid_points(space, trials) if point != first)])
    if search.algorithm == "random":
        return FixedList(random_settings(first, space, trials, search.seed))
    if isinstance(search.algorithm, LibraryPart):
        from pipeline.tuning.ray_tune import searchers  # imports Ray, which the checks of other stages do not need

        if searchers.is_variant_generator(search.algorithm):
            points = searchers.variants(search.algorithm, space, trials, search.seed)
            return FixedList([first, *(point for point in points if point != first)][:trials])
        return searchers.build_searcher(search.algorithm, first, space, metrics, search.seed, search.concurrent)
    return Optuna(first, space, len(search.objectives), trials=trials, round_size=search.concurrent, seed=search.seed)
