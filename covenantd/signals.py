"""Signals that mean more than "stop now": SIGHUP reloads the config, SIGTERM may finish the round first."""

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio

from covenantd.errors import CovenantError
from covenantd.liveconfig import LiveConfig
from covenantd.sdnotify import Notifier

log = structlog.get_logger("covenantd.signals")
_GRACE_SECONDS = 15.0  # to close sockets and end children after the drain

Reload = Callable[[], Awaitable[dict[str, Any]]]


def reloading(live: LiveConfig, notifier: Notifier, line: Callable[[], str]) -> Reload:
    """One reload, told to systemd (which waits for READY) and to the log. Raises CovenantError: nothing changed."""

    async def reload() -> dict[str, Any]:
        notifier.reloading()
        try:
            done = await trio.to_thread.run_sync(live.reload)
        finally:
            notifier.ready(line())
        log.info("config reloaded", **done.as_dict())
        if done.needs_restart:
            log.warning("changed settings that only a restart takes up", settings=list(done.needs_restart))
        return done.as_dict()

    return reload


async def reload_on_sighup(reload: Reload, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            try:
                await reload()
            except CovenantError as error:
                log.error("config not reloaded, the old one stays", error=str(error))


async def drain_on_sigterm(
    drain: Callable[[], Awaitable[None]],
    stop_seconds: float,
    notifier: Notifier,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The first SIGTERM drains, for `stop_seconds` at most; then, or at the second one, it stops as it always did."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        await anext(signals)
        log.info("stopping after the round in work; a second SIGTERM stops at once", seconds=stop_seconds)
        notifier.stopping("finishing the round")
        notifier.extend_timeout(stop_seconds + _GRACE_SECONDS)
        await drain()
        with trio.move_on_after(stop_seconds):
            await anext(signals)
    # whoever listened before us takes it from here
    signal.raise_signal(signal.SIGTERM)
