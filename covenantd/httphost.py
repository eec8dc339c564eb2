"""Whether a request's Host names this machine as nobody else can: a guard against DNS rebinding. Pure.

A website whose name suddenly resolves to 127.0.0.1 makes a browser on this host ask us, and reads the answer as its
own. The browser still says that website's name in Host.
"""

import ipaddress


def is_own_name(host: str) -> bool:
    """`host`: a Host header's value. True for IP addresses and localhost, which no website can have."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return is_address(name)


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    return is_address(address) and ipaddress.ip_address(address).is_loopback
