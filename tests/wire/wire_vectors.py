"""Regenerates the vectors: `python tests/wire/wire_vectors.py > tests/vectors/wire.json`.

Only for a new message. A line that changes here is a change of the wire, and needs a new tag.
"""

import dataclasses
import json
import random
from typing import Any

from wire_samples import kinds, sample

from eigen.protocol.wire import catalogue, encode


def plain(value: Any) -> Any:
    """A message as JSON: bytes in hex, large integers as text, structures as objects."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if type(value) is int and value >= 2**53:
        return str(value)
    return value


def vectors() -> list[dict[str, Any]]:
    """One instance of each message, with its bytes."""
    tags = {kind: tag for tag, kind in catalogue().items()}
    made = [(kind, sample(kind, random.Random(f"vector {tags[kind]}"))) for kind in kinds()]
    return [
        {
            "message": kind.__name__,
            "tag": tags[kind],
            "fields": plain(value),
            "bytes": encode(value).hex(),
        }
        for kind, value in made
    ]


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
