"""The checker of histories: it agrees with published verdicts and with a dumb search, accepts what is good and rejects what is planted."""

import csv
import os
import random
import re
import time
from itertools import permutations
from pathlib import Path

import pytest
from attrs import evolve
from histories import (
    MODELS,
    reordered,
    result_of,
    shifted,
    simulate,
    stale_read,
    with_last_read,
)
from linearizability import (
    NEVER,
    Counter,
    Model,
    Operation,
    Register,
    Undecided,
    check,
    read_history,
)

DATA = Path(os.environ.get("LEFTFOLD_DATA", Path(__file__).parents[1] / "../shared/data"))
PUBLISHED = DATA / "histories"
SAMPLES = Path(__file__).parent / "history_samples"
LINE = re.compile(r"INFO\s+jepsen\.util - (\d+)\s+:(\w+)\s+:(\w+)\s+(.+)")


def value_of(text: str) -> object:
    if text.startswith("["):
        old, new = text.strip("[]").split()
        return int(old), int(new)
    return None if text == "nil" else int(text)


def read_published(path: Path) -> list[Operation]:
    """One register; a cas that failed is one that found another value; a read that timed out says nothing."""
    open_: dict[str, Operation] = {}
    found: list[Operation] = []
    for at, line in enumerate(path.read_text().splitlines()):
        match = LINE.fullmatch(line.strip())
        assert match, line
        process, kind, f, text = match.groups()
        if kind == "invoke":
            open_[process] = Operation(f, value_of(text), called_ns=at)
        elif kind == "ok" or (kind == "fail" and f == "cas" and text != ":timed-out"):
            result = value_of(text) if f == "read" else kind == "ok"
            found.append(evolve(open_.pop(process), result=result, returned_ns=at))
        elif f == "read":
            del open_[process]
        else:
            assert kind == "info", line
            found.append(open_.pop(process))
    return found + [operation for operation in open_.values() if operation.f != "read"]


@pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason=f"{PUBLISHED} is absent; LEFTFOLD_DATA names its parent"
)
def test_the_checker_agrees_with_all_published_verdicts() -> None:
    with (PUBLISHED / "verdicts.csv").open() as file:
        verdicts = {row["history"]: row["linearizable"] == "true" for row in csv.DictReader(file)}
    found = {
        name: bool(check(read_published(PUBLISHED / name), Register())) for name in sorted(verdicts)
    }

    assert len(verdicts) == 102 and sum(verdicts.values()) == 23
    assert found == verdicts


def test_the_samples_are_judged_as_their_names_say() -> None:
    samples = sorted(SAMPLES.glob("*.jsonl"))
    assert len(samples) >= 6
    for path in samples:
        model = {"counter": Counter(), "register": Register()}[path.stem.split("-")[0]]

        def read(f: str, value: object, result: object) -> tuple[str, object, object]:
            return f, tuple(value) if isinstance(value, list) else value, result

        verdict = check(read_history(path.read_text().splitlines(), read), model)
        assert bool(verdict) == path.stem.endswith("good"), f"{path.name}: {verdict}"


def by_permutations(history: list[Operation], model: Model) -> bool:
    """Every order of every subset that has all known operations."""
    known = [one for one in history if one.is_known]
    unknown = [one for one in history if not one.is_known]
    for chosen in range(1 << len(unknown)):
        some = known + [one for at, one in enumerate(unknown) if chosen >> at & 1]
        for order in permutations(some):
            late = -1
            state = model.initial
            for one in order:
                # Nobody behind may have returned before this one was called.
                if one.returned_ns < late:
                    break
                late = max(late, one.called_ns)
                state, fits = model.step(state, one)
                if one.is_known and not fits:
                    break
            else:
                return True
    return False


def corrupted(rng: random.Random, kind: str, one: Operation, history: list[Operation]) -> Operation:
    """Perhaps with another result, of those that there might have been."""
    if not one.is_known or rng.random() < 0.5 or one.f in ("write", "append"):
        return one
    if one.f == "cas":
        return evolve(one, result=not one.result)
    values = [other.value for other in history if other.f in ("write", "append", "add")]
    if kind == "register":
        return evolve(one, result=rng.choice([None, *values]))
    some = rng.sample(values, rng.randrange(len(values) + 1))
    return evolve(one, result=sum(some) if kind == "counter" else tuple(some))


@pytest.mark.parametrize("kind", MODELS)
def test_the_checker_agrees_with_a_search_through_all_orders(kind: str) -> None:
    """Small histories, some of them with results that are not theirs."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    model, _ = MODELS[kind]
    verdicts = {True: 0, False: 0}
    for _ in range(300):
        history = simulate(rng, kind, 5, 3, unknown=0.2)
        history = [corrupted(rng, kind, one, history) for one in history]
        expected = by_permutations(history, model)
        assert bool(check(history, model)) == expected, history
        verdicts[expected] += 1
    assert min(verdicts.values()) > 20, verdicts


@pytest.mark.parametrize("kind", MODELS)
def test_good_histories_are_accepted_whatever_is_unknown(kind: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(50):
        history = simulate(rng, kind, 100, 5, unknown=rng.choice((0.0, 0.05)), keys=3)
        verdict = check(history, MODELS[kind][0])
        assert verdict, verdict


def test_planted_faults_are_rejected() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    planted = {"stale read": 0, "lost write": 0, "double apply": 0, "reordering": 0}
    for _ in range(60):
        register = simulate(rng, "register", 60, 4)
        counter = with_last_read(simulate(rng, "counter", 60, 4), "counter")
        sequence = simulate(rng, "sequence", 40, 4)
        for name, bad, model in (
            ("stale read", stale_read(rng, register), Register()),
            ("lost write", shifted(rng, counter, -1), Counter()),
            ("double apply", shifted(rng, counter, 1), Counter()),
            ("reordering", reordered(rng, sequence), MODELS["sequence"][0]),
        ):
            if bad is not None:
                assert not check(bad, model), (name, bad)
                planted[name] += 1
        assert check(counter, Counter())
    assert min(planted.values()) > 30, planted


def test_a_bad_key_among_good_ones_is_named() -> None:
    rng = random.Random(7)
    history = simulate(rng, "register", 300, 5, keys=5)
    bad = next(
        changed
        for key in range(5)
        if (changed := stale_read(rng, [one for one in history if one.key == key]))
    )
    key = bad[0].key
    verdict = check([one for one in history if one.key != key] + bad, Register())

    assert not verdict and verdict.key == key and verdict.stuck
    assert f"key {key} is not linearizable" in str(verdict)


def test_an_unknown_write_may_come_late_early_or_never() -> None:
    write = Operation("write", 1, None, 0, NEVER)

    def read(result: int | None, called_ns: int) -> Operation:
        return Operation("read", None, result, called_ns, called_ns + 1)

    assert check([write, read(None, 1), read(1, 3)], Register())
    assert check([write, read(None, 1)], Register())
    assert not check([write, read(1, 1), read(None, 3)], Register())
    assert not check([read(1, -2), write], Register())


def test_too_many_possibilities_are_an_error_and_not_a_verdict() -> None:
    history = [Operation("add", 1 << at, None, 0, NEVER) for at in range(20)]
    history.append(Operation("read", None, -1, 1, 2))
    with pytest.raises(Undecided):
        check(history, Counter(), configurations_max=1000)


def test_ten_thousand_operations_of_ten_processes_take_seconds() -> None:
    """The figures are printed; what is asserted is the work, which does not depend on the machine."""
    rng = random.Random(1)
    for kind in ("register", "counter"):
        history = simulate(rng, kind, 10_000, 10)
        begin_s = time.perf_counter()
        verdict = check(history, MODELS[kind][0])
        print(f"{kind}: {verdict.configurations} in {time.perf_counter() - begin_s:.2f} s")
        assert verdict and verdict.configurations < 1_000_000
    assert result_of(Register(), 5, Operation("read", None)) == 5
