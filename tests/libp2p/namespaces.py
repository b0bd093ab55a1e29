"""Network namespaces for tests that need more than loopback; they take root and `ip`."""

import os
import shutil
import subprocess

import pytest


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
