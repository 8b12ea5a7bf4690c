"""One cache: nothing of other inputs or code is reused, two processes do not disturb each other, and it stays small."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from components.foundation.caching import cache
from components.foundation.caching.cache import DAYS, Cache, Entry
from components.foundation.errors import InputError
from tests.components.sources.test_full_disks import FULL, fill

ROOT = Path(__file__).parents[4]
TENSORS = {"x": torch.arange(10_000)}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Cache]:
    yield Cache(tmp_path / "cache")
    release()


@pytest.fixture
def on_small_disk(small_disk: Path) -> Iterator[Cache]:
    yield Cache(small_disk / "cache")
    release()


def release() -> None:
    """Unlock everything that this process has locked, as its end would."""
    for lock in list(cache._held):
        Entry(cache._folder(lock)).release()


def other(folder: Path, body: str) -> subprocess.Popen[str]:
    """Another process at the same cache. It says what it does on stderr, and goes on at each line that it is sent."""
    script = f"""
import sys
from pathlib import Path
from components.foundation.caching.cache import Cache
kept = Cache(Path({str(folder)!r}))
def tell(word):
    print(word, file=sys.stderr, flush=True)
{body}
"""
    return subprocess.Popen(
        (sys.executable, "-c", script), cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


HOLD = 'entry = kept.entry("s", {"x": 1}, "c"); tell("has it"); sys.stdin.readline()\n'


def test_another_stage_other_inputs_and_other_code_are_other_entries(kept: Cache) -> None:
    first = kept.entry("stage", {"clips": "a", "settings": {"x": [1, 2]}}, "code")
    (first.path / "part").touch()
    assert kept.entry("stage", {"settings": {"x": (1, 2)}, "clips": "a"}, "code") == first
    others = [
        kept.entry("other", {"clips": "a", "settings": {"x": [1, 2]}}, "code"),
        kept.entry("stage", {"clips": "a", "settings": {"x": [2, 1]}}, "code"),
        kept.entry("stage", {"clips": "a", "settings": {"x": [1, 2]}}, "new code"),
    ]
    assert len({entry.path for entry in (first, *others)}) == 4
    assert not any(list(entry.path.iterdir()) for entry in others)
    assert others[2].of_other_code() == [first.path]
    assert others[1].of_other_code() == []


def test_a_released_entry_is_found_again_and_a_removed_one_leaves_nothing(kept: Cache) -> None:
    with kept.entry("stage", {}, "code") as entry:
        cache.save(entry.path / "x.safetensors", TENSORS)
    assert not cache._held
    again = kept.entry("stage", {}, "code")
    assert cache.whole(again.path / "x.safetensors")
    again.remove()
    assert list((kept.folder / "stage").iterdir()) == []
    assert list(kept.entry("stage", {}, "code").path.iterdir()) == []


@pytest.mark.parametrize("end", ["entry.release()", "entry.remove()", "import os; os.kill(os.getpid(), 9)"])
def test_a_second_process_waits_for_the_first_and_has_the_entry_alone_after(kept: Cache, end: str) -> None:
    first = other(kept.folder, HOLD + '(entry.path / "part").touch()\n' + end + '\ntell("over"); sys.stdin.readline()')
    assert heard(first) == "has it"
    second = other(kept.folder, HOLD + "tell(sorted(path.name for path in entry.path.iterdir()))")
    assert heard(second).startswith("s: waiting for another process, which has locked ")
    go_on(first)
    assert heard(second) == "has it"
    (lock,) = kept.folder.glob("s/*.json")
    assert not cache._evict(lock)  # which takes the lock if it is free
    go_on(second)
    assert heard(second) == ("[]" if "remove" in end else "['part']")
    for process in (first, second):
        process.kill()
        process.communicate()


MAKE = """
from components.foundation.caching import cache
import torch
def make(folder):
    with open(kept.folder.parent / "log", "a") as log:
        log.write("made\\n")
    for name in ("a", "b"):
        cache.save(folder / name, {"x": torch.arange(1000)})
def whole(folder):
    return all(cache.whole(folder / name) for name in ("a", "b"))
tell("ready"); sys.stdin.readline()
print(kept.product("s", {"x": 1}, "c", whole, make))
tell("done"); sys.stdin.readline()
"""


def test_several_processes_at_once_make_a_product_once_and_read_it_together(kept: Cache) -> None:
    several = [other(kept.folder, MAKE) for _ in range(3)]
    assert [heard(process) for process in several] == ["ready"] * 3
    for process in several:
        go_on(process)
    for process in several:  # none waits for the end of another one, which reads the product too
        while (line := heard(process)) != "done":
            assert "waiting for another process" in line
    assert (kept.folder.parent / "log").read_text() == "made\n"
    folder, lock = sorted(kept.folder.glob("s/*"))
    assert (folder.is_dir(), json.loads(lock.read_text())) == (True, {"stage": "s", "inputs": {"x": 1}, "code": "c"})
    for process in several:
        process.communicate("\n")
        assert process.returncode == 0


def test_a_process_that_makes_a_product_again_does_not_wait_for_its_readers(kept: Cache) -> None:
    names = ("a", "b")

    def make(folder: Path) -> None:
        for name in names:
            cache.save(folder / name, TENSORS)

    folder = kept.product("s", {"x": 1}, "c", lambda folder: all(cache.whole(folder / name) for name in names), make)
    (folder / "a").write_bytes(b"damaged")
    second = other(kept.folder, MAKE)
    assert heard(second) == "ready"
    go_on(second)
    assert heard(second) == "done"
    second.communicate("\n")
    assert (kept.folder.parent / "log").read_text() == "made\n"
    assert cache.whole(folder / "a")


def making(calls: list[Path]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        calls.append(folder)
        cache.save(folder / "x", TENSORS)

    return make


def test_a_damaged_file_is_not_whole_and_a_damaged_product_is_made_again(kept: Cache) -> None:
    calls: list[Path] = []
    given = ("stage", {}, "code", lambda folder: cache.whole(folder / "x"), making(calls))
    folder = kept.product(*given)
    (folder / "stranger").touch()
    assert kept.product(*given) == folder
    assert len(calls) == 1
    good = (folder / "x").read_bytes()
    for bad in (good[:-1] + b"?", good[: len(good) // 2], b""):
        (folder / "x").write_bytes(bad)
        assert not cache.whole(folder / "x")
        kept.product(*given)
        assert (folder / "x").read_bytes() == good
    (folder / "x.sha256").unlink()
    kept.product(*given)
    assert len(calls) == 5
    assert sorted(path.name for path in folder.iterdir()) == ["x", "x.sha256"]


def test_a_product_that_could_not_be_made_is_made_the_next_time(kept: Cache) -> None:
    def fail(folder: Path) -> None:
        (folder / "part").touch()
        raise InputError("a bad clip")

    def whole(folder: Path) -> bool:
        return cache.whole(folder / "x")

    with pytest.raises(InputError, match="a bad clip"):
        kept.product("stage", {}, "code", whole, fail)
    assert [path.name for path in kept.product("stage", {}, "code", whole, making([])).iterdir()] == ["x", "x.sha256"]


def test_a_full_disk_is_a_sentence_and_what_was_made_before_stays(on_small_disk: Cache) -> None:
    kept, small_disk = on_small_disk, on_small_disk.folder.parent
    entry = kept.entry("stage", {}, "code")
    cache.save(entry.path / "first", TENSORS)
    filler = fill(small_disk, 8192)
    with pytest.raises(InputError, match=r"/second cannot be written \(.*No space left on device.*\); free space"):
        cache.save(entry.path / "second", TENSORS)
    assert cache.whole(entry.path / "first")
    assert not cache.whole(entry.path / "second")
    assert sorted(path.name for path in entry.path.iterdir()) == ["first", "first.sha256"]
    full = small_disk / "more"
    with pytest.raises(OSError, match="No space left"):
        shutil.copyfile("/dev/zero", full)
    with pytest.raises(InputError, match=FULL):
        kept.entry("stage", {"another": 1}, "code")
    for path in (filler, full):
        path.unlink()
    cache.save(entry.path / "second", TENSORS)
    assert cache.whole(entry.path / "second")
    assert kept.entry("stage", {"another": 1}, "code").path.exists()


def aged(entry: Entry, days: float) -> Entry:
    """The entry, released, as if it had last been used so many days ago."""
    entry.release()
    then = time.time() - days * 24 * 3600
    for path in (*entry.path.rglob("*"), entry.path, entry.lock):
        os.utime(path, (then, then))
    return entry


def filled(kept: Cache, name: str, size: int = 4096) -> Entry:
    entry = kept.entry("stage", {"name": name}, "code")
    (entry.path / "part").write_bytes(b"x" * size)
    return entry


def test_entries_that_nobody_uses_are_evicted_and_those_in_use_are_not(kept: Cache) -> None:
    old, young = aged(filled(kept, "old"), DAYS + 1), aged(filled(kept, "young"), DAYS - 1)
    mine = filled(kept, "mine")
    resumed = aged(filled(kept, "resumed"), DAYS + 1)
    (resumed.path / "checkpoint").touch()  # written by a process that was killed: as good as a use
    held = aged(filled(kept, "held"), DAYS + 1)
    holder = other(kept.folder, 'entry = kept.entry("stage", {"name": "held"}, "code"); tell("has it")\n'
                                "sys.stdin.readline()")  # fmt: skip
    assert heard(holder) == "has it"
    for entry in (mine, held):
        os.utime(entry.lock, (0, 0))
        os.utime(entry.path / "part", (0, 0))
        os.utime(entry.path, (0, 0))
    kept.prune()
    assert [entry.path.exists() for entry in (old, young, mine, resumed, held)] == [False, True, True, True, True]
    assert not old.lock.exists()
    holder.kill()
    holder.communicate()
    kept.prune()
    assert not held.path.exists()


def test_the_first_use_of_a_process_evicts_but_not_the_entry_that_it_uses(kept: Cache) -> None:
    old, wanted = aged(filled(kept, "old"), DAYS + 1), aged(filled(kept, "wanted"), DAYS + 1)
    process = other(kept.folder, 'kept.entry("stage", {"name": "wanted"}, "code")')
    assert process.communicate()[1] == ""
    assert wanted.path.exists()
    assert not old.path.exists()


def test_the_least_recently_used_entries_go_when_the_cache_takes_too_much_of_the_disk(on_small_disk: Cache) -> None:
    kept = on_small_disk
    sizes = {"used last": 2**20, "used first": 2**19, "between": 3 * 2**18}  # of four mebibytes
    entries = {name: filled(kept, name, size) for name, size in sizes.items()}
    for name, days in {"used first": 3.0, "between": 2.0, "used last": 1.0}.items():
        aged(entries[name], days)
    kept.prune()
    assert [entries[name].path.exists() for name in sizes] == [True, False, True]
    small = filled(kept, "small")
    kept.prune()
    assert all(entry.path.exists() for entry in (small, entries["between"], entries["used last"]))


def test_a_removal_that_was_killed_leaves_no_part_under_the_entrys_name(kept: Cache) -> None:
    entry = filled(kept, "x")
    gone = entry.path.with_name(f".{entry.path.name}.gone")
    entry.path.rename(gone)  # as far as the removal came
    entry.release()
    assert list(kept.entry("stage", {"name": "x"}, "code").path.iterdir()) == []
    Entry(entry.path).remove()
    assert not gone.exists()
    assert list((kept.folder / "stage").iterdir()) == []


def test_a_tensors_digest_is_that_of_its_values_its_shape_and_its_type() -> None:
    x = torch.arange(6).reshape(2, 3)
    assert cache.digest(x) == cache.digest(x.T.contiguous().T)
    different = [x, x + 1, x.reshape(3, 2), x.int(), x.bfloat16(), torch.tensor(1.0), torch.tensor(True)]
    assert len({cache.digest(one) for one in different}) == len(different)
