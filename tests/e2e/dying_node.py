"""`eigen up`, with a `kill -9` of itself at one exact point of a round; used by test_kill.

TEST_DIE names the phase. Once the node has been credited for a round since it started, it dies by
SIGKILL when it is about to perform the next effect of that phase.
"""

import os
import signal
import sys

from eigen.node import driver
from eigen.node.cli import main
from eigen.protocol.effects import Effect, Publish, SeatOpened, SendPart, Step, Train
from eigen.protocol.messages import Commitment, ResultVote, StepNotice

PHASES = {
    "seat": lambda e: isinstance(e, SeatOpened),
    "train": lambda e: isinstance(e, Train),
    "commit": lambda e: isinstance(e, Publish) and isinstance(e.message, Commitment),
    "exchange": lambda e: isinstance(e, SendPart) and e.part > 0,
    "agree": lambda e: isinstance(e, Publish) and isinstance(e.message, ResultVote),
    "step": lambda e: isinstance(e, Step),
    "notice": lambda e: isinstance(e, Publish) and isinstance(e.message, StepNotice),
}

phase = os.environ.pop("TEST_DIE")
perform = driver.RunDriver._perform
first_round: dict[bytes, int] = {}


def round_of(effect: Effect) -> int:
    inner = getattr(effect, "message", None) or getattr(effect, "seat", None) or effect
    return inner.attempt.round


def credited_since_start(run: driver.RunDriver) -> bool:
    since = first_round.setdefault(run.context.run, run.head.round)
    return any(
        number > since and any(credit.account == run.me for credit in record.trainers)
        for number, record in run.history.items()
    )


async def perform_or_die(self: driver.RunDriver, effect: Effect) -> None:
    if credited_since_start(self) and PHASES[phase](effect):
        os.write(2, f"DYING {phase} in round {round_of(effect)}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    await perform(self, effect)


driver.RunDriver._perform = perform_or_die

if __name__ == "__main__":
    sys.exit(main())
