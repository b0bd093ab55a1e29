"""Network namespaces for tests that need more than loopback; they take root and `ip`.

`internet` makes a public network and homes behind routers that translate addresses; it takes `nft`
and a kernel with NAT besides.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
PUBLIC_IP = "11.0.0.1"
"""Of the host in the middle; a global address, as no test network of the RFCs is one."""
HOME_IP = "192.168.1.2"
"""The same in every home, as it is in people's homes."""


class Nat(Enum):
    """What stands before a home; the value is how its router chooses the outer port."""

    NONE = ""
    KEEPS_PORT = "masquerade"
    """One outer port, the same as inside, whoever is dialled: Linux, and most home routers."""
    SYMMETRIC = "masquerade fully-random"
    """Another outer port for everybody who is dialled: many mobile and company networks."""


def need_namespaces() -> None:
    """Skip the test where namespaces cannot be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip`")
    if subprocess.run(["ip", "netns", "list"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel has no network namespaces")


def ip(*arguments: str) -> None:
    """Run `ip`; raises where it fails."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def add(space: str) -> None:
    """A namespace with its loopback up."""
    ip("netns", "add", space)
    ip("-n", space, "link", "set", "lo", "up")


def delete(*spaces: str) -> None:
    """Remove namespaces and the links in them."""
    for space in spaces:
        subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def join(left: str, left_ip: str, right: str, right_ip: str, name: str) -> None:
    """A line between two namespaces; the addresses carry their prefix length."""
    ends = ((left, f"{name}0", left_ip), (right, f"{name}1", right_ip))
    ip("-n", left, "link", "add", f"{name}0", "type", "veth", "peer", "name", f"{name}1")
    ip("-n", left, "link", "set", f"{name}1", "netns", right)
    for space, device, address in ends:
        ip("-n", space, "addr", "add", address, "dev", device)
        ip("-n", space, "link", "set", device, "up")


def inside(space: str, command: list[str]) -> list[str]:
    """The command, run in the namespace."""
    return ["ip", "netns", "exec", space, *command]


@contextmanager
def entered(space: str) -> Iterator[None]:
    """This thread, and the processes that it starts, in the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{space}", os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {space}")
        yield
    finally:
        libc.setns(before, CLONE_NEWNET)
        os.close(before)
        os.close(there)


@dataclass(frozen=True)
class Home:
    """A host, and the router that it is behind; `ip` is the host's own, `outer_ip` the router's."""

    space: str
    router: str
    ip: str
    outer_ip: str


@dataclass(frozen=True)
class Internet:
    """A public host (`PUBLIC_IP`) in the namespace `public`, which all homes reach."""

    public: str
    homes: tuple[Home, ...]


RULES = """
table ip nat {{
  chain post {{
    type nat hook postrouting priority 100
    oifname "wan0" {masquerade}
  }}
}}
table ip filter {{
  chain input {{
    type filter hook input priority 0
    iifname "wan0" ct state new drop
  }}
  chain forward {{
    type filter hook forward priority 0; policy drop
    ct state established,related accept
    iifname "lan0" accept
    ct status dnat accept
  }}
}}
"""


@contextmanager
def internet(*nats: Nat) -> Iterator[Internet]:
    """A public host and a home behind each of `nats`. Skips the test where that cannot be made."""
    need_namespaces()
    if shutil.which("nft") is None:
        pytest.skip("routers need `nft` (Debian: nftables)")
    tag = f"eig{os.getpid() % 100_000}"
    public = f"{tag}p"
    homes = [
        Home(f"{tag}h{n}", f"{tag}r{n}", HOME_IP if nat.value else f"11.0.{n}.2", f"11.0.{n}.2")
        for n, nat in enumerate(nats, start=1)
    ]
    spaces = [public, *(h.space for h in homes), *(h.router for h in homes)]
    try:
        add(public)
        ip("-n", public, "addr", "add", f"{PUBLIC_IP}/32", "dev", "lo")
        _forward(public)
        for number, (home, nat) in enumerate(zip(homes, nats, strict=True), start=1):
            add(home.space)
            inner, gateway = f"11.0.{number}.2/24", f"11.0.{number}.1"
            if not nat.value:
                join(public, f"{gateway}/24", home.space, inner, f"p{number}")
                ip("-n", home.space, "route", "add", "default", "via", gateway)
                continue
            add(home.router)
            join(public, f"{gateway}/24", home.router, inner, f"p{number}")
            ip("-n", home.router, "link", "set", f"p{number}1", "down")
            ip("-n", home.router, "link", "set", f"p{number}1", "name", "wan0", "up")
            ip("-n", home.router, "route", "add", "default", "via", gateway)
            join(home.router, "192.168.1.1/24", home.space, f"{HOME_IP}/24", "lan")
            ip("-n", home.space, "route", "add", "default", "via", "192.168.1.1")
            _forward(home.router)
            _translate(home.router, nat)
        yield Internet(public, tuple(homes))
    finally:
        delete(*spaces)


UPNP_TABLES = """
table inet upnp {
  chain forward { type filter hook forward priority 0; policy accept; jump miniupnpd; }
  chain miniupnpd { }
  chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
  chain prerouting_miniupnpd { }
  chain postrouting { type nat hook postrouting priority 90; jump postrouting_miniupnpd; }
  chain postrouting_miniupnpd { }
}
"""
UPNP_CONFIG = """
ext_ifname=wan0
listening_ip=lan0
enable_natpmp=no
enable_upnp=yes
secure_mode=yes
upnp_table_name=upnp
upnp_nat_table_name=upnp
uuid=00000000-0000-0000-0000-000000000001
allow 1024-65535 192.168.1.0/24 1024-65535
"""


def upnp_router(home: Home, folder: Path) -> list[str]:
    """The command of a real `miniupnpd` on the home's router. Skips the test without one."""
    if shutil.which("miniupnpd") is None:
        pytest.skip("needs `miniupnpd` (Debian: miniupnpd-nftables)")
    _load(home.router, UPNP_TABLES)
    config = folder / "miniupnpd.conf"
    config.write_text(UPNP_CONFIG)
    daemon = ["miniupnpd", "-d", "-f", str(config), "-P", str(folder / "miniupnpd.pid")]
    return inside(home.router, daemon)


def _forward(space: str) -> None:
    with entered(space):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _translate(router: str, nat: Nat) -> None:
    _load(router, RULES.format(masquerade=nat.value))


def _load(router: str, rules: str) -> None:
    command = inside(router, ["nft", "-f", "-"])
    done = subprocess.run(command, input=rules.encode(), capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this kernel translates no addresses: {done.stderr.decode()[:200]}")
