"""What can be computed again below .state is in the one cache, and its code is the code that DVC's stages depend on."""

from components.foundation.caching import code
from tests.architecture.first_party import EXEMPT, project, room

# no results of stages: locks, hashes of files by their time, downloads, and the log of a job
OTHERS = {
    "components/telemetry/provenance.py",
    "pipeline/runtime/stage.py",
    "pipeline/weights.py",
    "pipeline/jobs/preflight.py",
}


def test_only_the_cache_keeps_results_below_state() -> None:
    naming = {path for path, source in project("components", "pipeline").sources.items() if '".state' in source.text}
    assert naming == OTHERS | {"components/foundation/caching/cache.py"}


def test_the_code_of_a_result_is_the_closure_of_its_imports() -> None:
    assert code.EXEMPT == EXEMPT
    tree = project("components", "pipeline")
    exempt = frozenset(path for path in tree.sources if room(path) in EXEMPT)
    users = [path for path, source in tree.sources.items() if "code.fingerprint(" in source.text]
    assert len(users) > 7
    for path in users:
        assert code.closure(path) == tree.closure(path, without=exempt), path
