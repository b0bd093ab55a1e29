"""Other programs as peers: started, spoken to in lines, ended by their id."""

import functools
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio


class Program:
    """A child process that prints lines of JSON."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._buffer = b""
        self.heard: list[dict[str, object]] = []

    async def line(self, key: str, timeout_s: float = 30.0) -> object:
        """Wait for a line with this key, among those already heard too; returns its value."""
        with trio.fail_after(timeout_s):
            while True:
                for index, fields in enumerate(self.heard):
                    if key in fields:
                        return self.heard.pop(index)[key]
                await self._read()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self.process.stdout.receive_some(65536)
            if not data:
                raise RuntimeError(f"the program ended ({self.process.returncode})")
            self._buffer += data
        first, _, self._buffer = self._buffer.partition(b"\n")
        try:
            fields = json.loads(first)
        except ValueError:
            fields = {"text": first.decode(errors="replace")}
        self.heard.append(fields if isinstance(fields, dict) else {"value": fields})

    async def tell(self, text: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(text.encode() + b"\n")


@asynccontextmanager
async def program(command: Sequence[str], cwd: str | None = None) -> AsyncIterator[Program]:
    """Run a program; it is killed at the end."""
    async with trio.open_nursery() as nursery:
        run = functools.partial(
            trio.run_process,
            list(command),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            check=False,
        )
        process = await nursery.start(run)
        try:
            yield Program(process)
        finally:
            process.kill()
            nursery.cancel_scope.cancel()


def python(path: str, *arguments: str) -> list[str]:
    """A command that runs a Python file with this interpreter."""
    return [sys.executable, path, *arguments]
