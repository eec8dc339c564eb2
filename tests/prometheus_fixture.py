"""The real Prometheus server, scraping one target."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (Debian: prometheus)"
)
_CONFIG = """\
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [alerts.yml]
scrape_configs:
  - job_name: covenantd
    static_configs: [{targets: ["TARGET"]}]
"""


class Prometheus:
    """Started at once; `close` ends it."""

    def __init__(self, directory: Path, target: str, alerts: str) -> None:
        directory.mkdir()
        (directory / "prometheus.yml").write_text(_CONFIG.replace("TARGET", target))
        (directory / "alerts.yml").write_text(alerts)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._url = f"http://{address}"
        self._log = directory / "log"
        command = ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)

    def get(self, path: str, **query: str) -> Any:
        """The `data` of an API answer; AssertionError for what Prometheus calls an error."""
        url = f"{self._url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query or path}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.get("/api/v1/query", query=expression)["result"]
        return found

    def until(self, expression: str, seconds: float = 60) -> list[Any]:
        """The first answer that is not empty."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                if found := self.query(expression):
                    return found
            except (AssertionError, OSError):
                pass  # not up yet
            assert time.monotonic() < deadline, f"{expression} in vain; {self._log.read_text()[-2000:]}"
            time.sleep(0.2)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
