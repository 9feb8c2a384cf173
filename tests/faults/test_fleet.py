"""Many processes before one provider, on a clock of their own: they don't act in step, and make no outage worse."""

from collections import Counter

import pytest

from bench import fleet

AS_IT_IS, IN_STEP, UNGUARDED = fleet.GUARDS


def mean(counted: Counter[int], *seconds: float) -> float:
    """Return how many there were in each of these seconds."""
    return sum(counted[second] for second in range(*map(int, seconds))) / (seconds[1] - seconds[0])


def test_trials_are_spread() -> None:
    """After each pause one request of each process tries, not all of them in the same second."""
    spread, in_step = (
        max(fleet.watch(40, 5.0, fleet.fails, guards, 35.0).trials.values()) for guards in (AS_IT_IS, IN_STEP)
    )
    assert in_step >= 25
    assert spread <= 15


def test_probes_are_spread() -> None:
    """Processes that begin at once ask how the provider is in every second, not all of them in every other one."""
    spread, in_step = (fleet.watch(40, 0.1, fleet.fails, guards, 10.0).probes for guards in (AS_IT_IS, IN_STEP))
    assert max(in_step[second] for second in range(2, 10)) == 40
    assert max(spread[second] for second in range(2, 10)) <= 28


def test_waits_are_spread() -> None:
    """All who were told to wait until the same moment don't ask in that moment, when the provider is back."""
    spread, in_step = (
        max(fleet.watch(40, 2.0, fleet.limits_until, guards).tries[second] for second in range(int(fleet.BACK), 80))
        for guards in (AS_IT_IS, IN_STEP)
    )
    assert in_step > 1.15 * spread


@pytest.mark.parametrize("trouble", fleet.TROUBLES.values(), ids=fleet.TROUBLES)
def test_an_outage_is_not_made_worse(trouble: fleet.Trouble) -> None:
    """Retries add little to what is asked anyway, one that fails or hangs is left alone, and then all come back."""
    seen = fleet.watch(40, 1.0, trouble, until=fleet.BACK + 22)
    before, during = mean(seen.tries, 0, fleet.FAILS), mean(seen.tries, fleet.FAILS, fleet.BACK)
    assert during < before * (1.5 if "limits" in trouble.__name__ else 0.5)
    assert not seen.trials[int(fleet.BACK) + 21]
    assert mean(seen.tries, fleet.BACK + 15, fleet.BACK + 22) > 0.8 * before
