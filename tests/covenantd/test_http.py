"""The metrics port over real TCP: a scrape, health, and clients that misbehave."""

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from covenantd.errors import ConfigError, TryAgain
from covenantd.health import Health, Heartbeat
from covenantd.http import HttpSettings, Response, serve_http, standard_routes
from covenantd.metrics import Metrics


class Site:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.health = Health()
        self.engine_trouble: str | None = None
        self.chain_trouble: str | None = None
        self.health.add("engine", lambda: self.engine_trouble, live=True)
        self.health.add("chain", lambda: self.chain_trouble)
        self.routes = standard_routes(self.metrics, self.health, lambda: self.metrics.chain_block.set(42))
        self.routes["/bug"] = self._bug
        self.address = ""

    async def _bug(self) -> Response:
        raise ZeroDivisionError

    async def talk(self, request: bytes) -> bytes:
        """Send, half-close, and read to the end."""
        host, port = self.address.rsplit(":", 1)
        stream = await trio.open_tcp_stream(host.strip("[]"), int(port))
        received = b""
        try:
            await stream.send_all(request)
            await stream.send_eof()
            while data := await stream.receive_some(65536):
                received += data
        except trio.BrokenResourceError:
            pass  # it may close while we still talk
        await stream.aclose()
        return received


@pytest.fixture
async def site(nursery: trio.Nursery) -> AsyncIterator[Site]:
    site = Site()
    site.address = await nursery.start(serve_http, "127.0.0.1:0", site.routes)
    yield site
    nursery.cancel_scope.cancel()


async def get(site: Site, path: str) -> tuple[int, str, bytes]:
    def fetch() -> tuple[int, str, bytes]:
        try:
            with urllib.request.urlopen(f"http://{site.address}{path}", timeout=10) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    return await trio.to_thread.run_sync(fetch)


async def test_a_scrape_parses_and_is_fresh(site: Site) -> None:
    site.metrics.inner_steps.inc(7)
    site.chain_trouble = "silent"
    status, kind, body = await get(site, "/metrics?x=1")
    assert status == 200 and kind.startswith("text/plain; version=0.0.4")
    found = {
        (s.name, *s.labels.values()): s.value
        for family in text_string_to_metric_families(body.decode())
        for s in family.samples
    }
    assert found[("covenantd_inner_steps_total",)] == 7
    assert found[("covenantd_chain_block",)] == 42
    assert found[("covenantd_health_check", "chain")] == 0
    assert found[("covenantd_health_check", "engine")] == 1


async def test_health_and_readiness(site: Site) -> None:
    assert (await get(site, "/readyz"))[0] == 200
    site.chain_trouble = "no block for 60 s"
    status, _, body = await get(site, "/readyz")
    assert status == 503
    assert json.loads(body)["checks"]["chain"] == {"ok": False, "reason": "no block for 60 s"}
    assert (await get(site, "/healthz"))[0] == 200
    site.engine_trouble = "hangs"
    assert (await get(site, "/healthz"))[0] == 503 and not site.health.alive()


async def test_unknown_path_wrong_method_head_and_a_bug(site: Site) -> None:
    assert (await get(site, "/nothing"))[0] == 404
    post = await site.talk(b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
    assert post.startswith(b"HTTP/1.1 405") and b"allow: GET, HEAD" in post.lower().replace(b"get, head", b"GET, HEAD")
    head = await site.talk(b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and head.endswith(b"\r\n\r\n")
    assert (await get(site, "/bug"))[0] == 500
    assert (await get(site, "/healthz"))[0] == 200


async def test_several_requests_on_one_connection(site: Site) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert (await site.talk(request * 3)).count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nX" * 5000,
        b"nonsense\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
    ],
)
async def test_oversized_and_broken_heads_are_refused(site: Site, request_bytes: bytes) -> None:
    answer = await site.talk(request_bytes)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
    assert (await get(site, "/healthz"))[0] == 200


async def test_a_body_that_never_comes_ends_the_connection(site: Site) -> None:
    answer = await site.talk(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\nxx")
    assert answer.startswith(b"HTTP/1.1 200")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(st.binary(max_size=100), st.just(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")), max_size=4
    )
)
def test_fuzz_any_bytes_leave_the_server_standing(parts: list[bytes]) -> None:
    async def scene() -> None:
        site = Site()
        async with trio.open_nursery() as nursery:
            site.address = await nursery.start(serve_http, "127.0.0.1:0", site.routes)
            await site.talk(b"".join(parts))
            assert (await site.talk(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 200")
            nursery.cancel_scope.cancel()

    trio.run(scene)


async def test_slow_clients_are_dropped(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    site = Site()
    address = await nursery.start(serve_http, "127.0.0.1:0", site.routes)
    stream = await trio.open_tcp_stream("127.0.0.1", int(address.rsplit(":", 1)[1]))
    await stream.send_all(b"GET /met")
    assert await stream.receive_some(1) == b""
    nursery.cancel_scope.cancel()


async def test_too_many_connections_are_told_so(nursery: trio.Nursery) -> None:
    site = Site()
    site.address = await nursery.start(serve_http, "127.0.0.1:0", site.routes, HttpSettings(max_connections=1))
    port = int(site.address.rsplit(":", 1)[1])
    first = await trio.open_tcp_stream("127.0.0.1", port)
    await first.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await first.receive_some(65536)).startswith(b"HTTP/1.1 200")
    assert (await get(site, "/healthz"))[0] == 503
    await first.aclose()
    nursery.cancel_scope.cancel()


async def test_a_port_in_use_names_the_setting(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"http.listen 127.0.0.1:\d+: Address already in use"):
        await serve_http(site.address, {})


async def test_an_address_that_is_not_there_yet_is_tried_again() -> None:
    """At boot the network may come later; 78 would mean: never start this again."""
    with pytest.raises(TryAgain, match="is the network up"):
        await serve_http("192.0.2.1:9464", {})
    with pytest.raises(ConfigError, match="http.listen 'no-port'"):
        await serve_http("no-port", {})


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9464", 200),
        ("miner.localhost", 200),
        ("127.0.0.1:9464", 200),
        ("[::1]:9464", 200),
        ("10.0.0.1", 200),
        ("evil.example", 421),
        ("evil.example:9464", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:9464", 421),
        ("", 421),
    ],
)
async def test_a_website_that_resolves_to_this_host_reads_nothing(site: Site, host: str, status: int) -> None:
    answer = await site.talk(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status}".encode()) and (b"covenantd_" in answer) == (status == 200)


async def test_listening_for_others_every_name_is_good(nursery: trio.Nursery) -> None:
    site = Site()
    site.address = (await nursery.start(serve_http, "0.0.0.0:0", site.routes)).replace("0.0.0.0", "127.0.0.1")
    assert (await site.talk(b"GET /healthz HTTP/1.1\r\nHost: miner.lan\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert (await site.talk(b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")
    nursery.cancel_scope.cancel()


async def test_ipv6(nursery: trio.Nursery) -> None:
    site = Site()
    try:
        site.address = await nursery.start(serve_http, "[::1]:0", site.routes)
    except ConfigError:
        pytest.skip("no IPv6 here")
    assert (await get(site, "/healthz"))[0] == 200
    nursery.cancel_scope.cancel()


def test_heartbeat() -> None:
    now = [0.0]
    heart = Heartbeat(10, lambda: now[0])
    now[0] = 10
    assert heart.probe() is None
    now[0] = 25
    assert heart.probe() == "silent for 25 s"
    heart.beat()
    assert heart.probe() is None
