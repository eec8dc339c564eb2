"""Signals, raised in this very process."""

import signal

import pytest
import trio

from covenantd.stopping import stop_signals


async def test_a_signal_cancels_and_others_wait_until_all_is_cleaned_up() -> None:
    cleaned = False
    stops: list[int] = []
    async with trio.open_nursery() as nursery, stop_signals(nursery, lambda: stops.append(1)):
        try:
            signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for number in (signal.SIGINT, signal.SIGTERM):
                    before = len(stops)
                    signal.raise_signal(number)
                    while len(stops) == before:  # noqa: ASYNC110
                        await trio.lowlevel.checkpoint()
            cleaned = True
    assert cleaned and len(stops) == 3


async def test_without_a_signal_it_ends_with_its_block_and_gives_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    async with trio.open_nursery() as nursery, stop_signals(nursery):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


async def test_what_goes_wrong_inside_is_not_hidden() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery, stop_signals(nursery):
            raise ValueError("inside")
    assert caught.group_contains(ValueError)
