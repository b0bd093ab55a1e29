"""Every setting of a node: its type, default, meaning, and the values that it accepts.

One frozen dataclass a section. Documentation, the file that `eigen init` writes, and the messages
about bad values are all made from what stands here.
"""

# ruff: noqa: RUF009 - option() is dataclasses.field(), which that rule allows

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast

from eigen.config import kinds
from eigen.config.kinds import Kind
from eigen.protocol.types import Address

T = TypeVar("T")


def option(default: T, kind: Kind[T], description: str) -> T:
    """A field of a section, with what `Option` tells about it."""
    made: object = field(default=default, metadata={"kind": kind, "description": description})
    return cast(T, made)


@dataclass(frozen=True, slots=True)
class NetworkSection:
    """Which network the node belongs to."""

    file: Path | None = option(
        None,
        kinds.optional(kinds.path, "network.toml in the home folder"),
        "The network file: chain, contracts, bootstrap peers and deadlines of one DAO.",
    )


@dataclass(frozen=True, slots=True)
class P2pSection:
    """How peers are reached."""

    listen: tuple[str, ...] = option(
        ("/ip4/0.0.0.0/tcp/4001",),
        kinds.listing(kinds.multiaddr(with_peer=False)),
        "Where to listen. Port 0 takes any free port; an empty list only dials.",
    )
    announce: tuple[str, ...] = option(
        (),
        kinds.listing(kinds.multiaddr(with_peer=False)),
        "Addresses to tell peers instead of this machine's own, as behind a port mapping.",
    )
    bootstrap: tuple[str, ...] = option(
        (),
        kinds.listing(kinds.multiaddr(with_peer=True)),
        "Peers to dial first, besides those of the network file.",
    )
    mdns: bool = option(True, kinds.boolean, "Find peers on the local network, and be found there.")
    upnp: bool = option(
        True,
        kinds.boolean,
        "Have the home router forward the port listened on, where it offers that (UPnP).",
    )
    allow: tuple[Address, ...] = option(
        (),
        kinds.listing(kinds.address),
        "Where not empty, only nodes with these addresses may connect.",
    )
    deny: tuple[Address, ...] = option(
        (), kinds.listing(kinds.address), "Nodes with these addresses may never connect."
    )
    connections_max: int = option(
        128,
        kinds.integer(4, 4096),
        "Peers connected at one time; further ones are refused.",
    )


@dataclass(frozen=True, slots=True)
class TrainingSection:
    """What the machine gives to training."""

    enabled: bool = option(True, kinds.boolean, "Train in runs that the DAO has opened.")
    threads: int = option(
        1,
        kinds.integer(1, 256),
        "CPU threads for training. With one thread, replay by a validator is bit-exact.",
    )
    device: str = option(
        "cpu",
        kinds.choice("cpu", "cuda"),
        "Where local steps are computed. Replay is bit-exact on equal hardware only.",
    )
    processes: int = option(
        1,
        kinds.integer(1, 16),
        "Processes that share each round's local steps, one a GPU (inner.micro_batches are dealt).",
    )
    memory_mb: int = option(
        4096,
        kinds.integer(512, 16 * 1024 * 1024),
        "Memory of the training process, MiB. A round that needs more fails on this node.",
    )
    nice: int = option(
        10,
        kinds.integer(0, 19),
        "How far training gives way to other programs: the niceness of its process.",
    )


@dataclass(frozen=True, slots=True)
class ValidatorSection:
    """Checking the work of others."""

    enabled: bool = option(
        False,
        kinds.boolean,
        "Validate rounds in place of training. Counts where the ledger lists this node.",
    )


@dataclass(frozen=True, slots=True)
class ChainSection:
    """How the chain is reached."""

    rpc_urls: tuple[str, ...] = option(
        (),
        kinds.listing(kinds.url),
        "JSON-RPC endpoints, tried in order. Empty: those of the network file.",
    )
    confirmations: int | None = option(
        None,
        kinds.optional(kinds.integer(0, 1000), "as the network file says"),
        "Blocks on top of a transaction before it counts.",
    )
    poll_s: float = option(
        2.0, kinds.number(0.05, 600), "Seconds between two looks at the chain's head."
    )


@dataclass(frozen=True, slots=True)
class PayoutSection:
    """Where rewards go."""

    address: Address | None = option(
        None,
        kinds.optional(kinds.address, "the node's own address"),
        "The account that claims are paid to; best one whose key is not on this machine.",
    )


@dataclass(frozen=True, slots=True)
class RelaySection:
    """Paying gas for others."""

    enabled: bool = option(
        False,
        kinds.boolean,
        "Bring members' signed ballots to the chain, for gas from the node's own account.",
    )


@dataclass(frozen=True, slots=True)
class StorageSection:
    """What is kept on disk."""

    keep_checkpoints: int = option(
        8,
        kinds.integer(2, 100_000),
        "Of each run, checkpoints of so many last rounds, with what those rounds left out. Older "
        "ones are deleted, and of a finished run all but the last, unless they are pinned.",
    )


@dataclass(frozen=True, slots=True)
class KeysSection:
    """How the node's keys are kept."""

    encrypted: bool = option(
        False,
        kinds.boolean,
        "Encrypt new key files with a passphrase. Files that exist are read as they are.",
    )
    passphrase_file: Path | None = option(
        None,
        kinds.optional(kinds.path, "EIGEN_PASSPHRASE, else the terminal is asked"),
        "File whose first line is the passphrase; its owner alone may read it.",
    )


@dataclass(frozen=True, slots=True)
class LogSection:
    """What is logged, and how."""

    level: str = option(
        "info",
        kinds.choice("debug", "info", "warning", "error"),
        "The least important messages that are shown.",
    )
    format: str = option(
        "console", kinds.choice("console", "json"), "Lines for people, or JSON for programs."
    )


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything that a person sets for one node."""

    network: NetworkSection = NetworkSection()
    p2p: P2pSection = P2pSection()
    training: TrainingSection = TrainingSection()
    validator: ValidatorSection = ValidatorSection()
    chain: ChainSection = ChainSection()
    payout: PayoutSection = PayoutSection()
    relay: RelaySection = RelaySection()
    storage: StorageSection = StorageSection()
    keys: KeysSection = KeysSection()
    log: LogSection = LogSection()


@dataclass(frozen=True, slots=True)
class Option:
    """What there is to know of one setting besides its value."""

    section: str
    name: str
    kind: Kind[Any]
    default: object
    description: str

    @property
    def key(self) -> str:
        """`section.name`, as in messages and in `--set`."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"EIGEN_{self.section}_{self.name}".upper()


SECTIONS: Final[Mapping[str, type]] = MappingProxyType(
    {section.name: cast(type, section.type) for section in fields(NodeConfig)}
)
"""Section name to its dataclass, in the order of the documentation."""

OPTIONS: Final[Mapping[str, Option]] = MappingProxyType(
    {
        option.key: option
        for section, made in SECTIONS.items()
        for option in (
            Option(section, f.name, f.metadata["kind"], f.default, f.metadata["description"])
            for f in fields(made)
        )
    }
)
"""Every setting by its key."""
