"""Times contenders beside plain, in pairs: plain, A, plain, B, plain ... round after round, after one warm-up each.

Takes contenders and tests; gives the times with their statistics. Every time stands between two plain ones, and every
other round runs backwards, so that a drift of the machine favours nobody. Leaves out what is measured (contenders.py)
and how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_eds.pipeline.bench.contender import Contender, Test
from edge_eds.pipeline.bench.ratios import Median, Pair, median, quartiles

Tell = Callable[[str, int, int], None]  # what comes next, runs done, runs in all


@dataclass(frozen=True)
class Result:
    """The times of one contender at one test."""

    variant: str
    test: Test
    pairs: tuple[Pair, ...]

    @property
    def seconds(self) -> Median:
        """Of the whole test."""
        return median([pair.seconds for pair in self.pairs])

    @property
    def spread(self) -> tuple[float, float]:
        """Seconds between which the middle half of the runs lies."""
        return quartiles([pair.seconds for pair in self.pairs])

    @property
    def ratio(self) -> Median:
        """To plain, pair by pair."""
        return median([pair.ratio for pair in self.pairs])

    @property
    def extra(self) -> Median:
        """Seconds more than plain, pair by pair."""
        return median([pair.extra for pair in self.pairs])


def measure(
    plain: Contender,
    contenders: Sequence[Contender],
    tests: Sequence[Test],
    repetitions: int,
    tell: Tell = lambda *_: None,
) -> list[Result]:
    """Time every contender at every test that it takes part in.

    plain may be among the contenders: its ratio is then plain to plain, which is the noise of the machine.

    Raises:
        SteeringError: what a contender is there for did not happen.
    """
    rows = [(test, [one for one in contenders if test.kind in one.kinds]) for test in tests]
    n_runs = sum(1 + len(able) + repetitions * (1 + 2 * len(able)) for _, able in rows)
    done = 0

    def timed(contender: Contender, test: Test) -> float:
        nonlocal done
        tell(f"{contender.name} {test.name}", done, n_runs)
        done += 1
        return contender.seconds(test)

    results = []
    for test, able in rows:
        for contender in (plain, *able):
            timed(contender, test)
        pairs: dict[str, list[Pair]] = {contender.name: [] for contender in able}
        for turn in range(repetitions):
            before = timed(plain, test)
            for contender in reversed(able) if turn % 2 else able:
                seconds = timed(contender, test)
                after = timed(plain, test)
                pairs[contender.name].append(Pair(seconds, before, after))
                before = after
        results += [Result(name, test, tuple(found)) for name, found in pairs.items()]
    tell("", n_runs, n_runs)
    return results
