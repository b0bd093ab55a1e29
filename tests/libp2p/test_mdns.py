"""Two nodes on one local network find each other without being told of anybody."""

import os
from pathlib import Path

import pytest
from namespaces import add, delete, inside, ip, join, need_namespaces
from programs import program, python

NODE = """
import json, trio
from nodes import make

async def main():
    node = make(mdns=True, listen=("/ip4/0.0.0.0/tcp/4001",))
    events = node.events()
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        print(json.dumps({"address": node.listen_addrs()[0]}), flush=True)
        async for event in events:
            print(json.dumps({"met": event.peer.hex()}), flush=True)

trio.run(main)
"""


@pytest.mark.slow
async def test_neighbours_find_each_other(tmp_path, monkeypatch):
    need_namespaces()
    script = tmp_path / "node.py"
    script.write_text(NODE)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    tag = f"mdns{os.getpid() % 10_000}"
    spaces = [f"{tag}a", f"{tag}b"]
    try:
        for space in spaces:
            add(space)
        join(spaces[0], "10.79.0.1/24", spaces[1], "10.79.0.2/24", tag)
        ip("-n", spaces[0], "route", "add", "default", "via", "10.79.0.2")
        ip("-n", spaces[1], "route", "add", "default", "via", "10.79.0.1")
        commands = [inside(space, python(str(script))) for space in spaces]
        async with program(commands[0]) as alice, program(commands[1]) as bob:
            assert await alice.line("met", timeout_s=30)
            assert await bob.line("met", timeout_s=30)
    finally:
        delete(*spaces)
