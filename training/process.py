"""What a child process of the node does to itself before it answers calls on its pipes.

The child ends as soon as its parent does, even in the middle of a call: a thread waits for the
hang-up of the call pipe, which the kernel gives when the last writer is gone, however it went.
Linux's PR_SET_PDEATHSIG would not do: it fires when the *thread* that started the child ends, and
Trio starts children on threads that it retires after ten idle seconds.
"""

import contextlib
import os
import resource
import select
import sys
import threading
from typing import BinaryIO


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The call and reply pipes, away from descriptors 0 and 1, which libraries may use."""
    calls, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(calls, "rb"), os.fdopen(replies, "wb")


def exit_on_hangup(calls: BinaryIO) -> None:
    """Have the process end when the other end of this pipe is closed."""
    threading.Thread(target=_wait_for_hangup, args=(calls.fileno(),), daemon=True).start()


def _wait_for_hangup(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # no events asked for: hang-ups and errors are always told
    poll.poll()
    os._exit(0)


def limit_memory(memory_bytes: int) -> None:
    """Cap what can be allocated: RLIMIT_DATA where it covers mappings (Linux), else RLIMIT_AS.

    RLIMIT_AS would also count the 400 MB of libraries that torch maps but hardly touches.
    """
    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    with contextlib.suppress(ValueError):  # a hard limit below ours is in force already
        resource.setrlimit(kind, (memory_bytes, memory_bytes))
