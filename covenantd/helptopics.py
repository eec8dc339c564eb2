"""`covenantd help TOPIC`: what is worth knowing and fits on a screen."""

from covenantd.conditions import HELP
from covenantd.configtext import default_toml

_JOIN = """\
Join a run that others started:

  covenantd init --dir DIR --run-spec run.json --bootstrap /ip4/ADDRESS/tcp/PORT/p2p/PEER_ID \\
                 --chain tcp://HOST:9945
  covenantd register --config DIR/covenantd.toml
  covenantd check-config DIR/covenantd.toml
  covenantd run --config DIR/covenantd.toml
  covenantctl --dir DIR status

Others must reach the port in [network] listen (TCP 31330). Behind a port forward, tell them the outside
address by [network] announce.
"""

_EXIT_CODES = """\
covenantd    0 ok    1 failed    64 usage    70 a bug (with a traceback)    75 try again later (chain, peers, disk)
             77 no permission    78 config: nothing gets better before somebody changes it    130 interrupted
covenantctl  0 ok    1 failed    2 usage    3 not running    4 permission    5 timeout
"""

_ENVIRONMENT = """\
COVENANTD_SECTION_KEY   any setting of the config, e.g. COVENANTD_ENGINE_THREADS=4; lists are comma-separated
COVENANTD_SOCKET        control socket that covenantctl talks to
COVENANTD_DIR           directory of `covenantd init` whose daemon covenantctl talks to
NO_COLOR                no colours
NOTIFY_SOCKET, WATCHDOG_USEC, CREDENTIALS_DIRECTORY, JOURNAL_STREAM   set by systemd, used as it says
"""

_CONTROL = f"""\
covenantctl status | peers | rounds [show R] | pause | resume | drain | wait --for CONDITION | version
  --json       one JSON object with "schema": 1
  --dir DIR    the daemon of that directory; --socket PATH: that socket; neither: /run/covenantd/control.sock

Conditions: {HELP}.
Reading is for members of the socket's group, pause, resume and drain for the daemon's user and root.
"""

TOPICS = {
    "config": ("every setting, with its default", default_toml),
    "control": ("covenantctl and its conditions", lambda: _CONTROL),
    "environment": ("environment variables", lambda: _ENVIRONMENT),
    "exit-codes": ("what the exit codes mean", lambda: _EXIT_CODES),
    "join": ("join a run that others started", lambda: _JOIN),
}


def overview() -> str:
    width = max(map(len, TOPICS))
    lines = [f"  {name:<{width}}  {about}" for name, (about, _) in TOPICS.items()]
    return "\n".join(["covenantd help TOPIC:", *lines]) + "\n"
