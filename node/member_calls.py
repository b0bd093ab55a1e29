"""Calls that a member makes by hand of the DAO's contracts: by the running node, or without one.

The methods are the same either way: a daemon serves them on its control socket, a command without
a daemon runs them itself, with the home locked as a daemon would lock it.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from eigen.node.commands import Invocation
from eigen.node.control import call_daemon
from eigen.node.exit_codes import ExitCode, UserError
from eigen.node.lock import HomeLock, running_pid

if TYPE_CHECKING:
    from eigen.chain.evm import EvmChain
    from eigen.config.loader import Loaded

CALL_TIMEOUT_S = 300.0
"""An approval and a call, two confirmations each on a slow chain."""


def member_call(invocation: Invocation, method: str, **params: Any) -> Any:
    """Make one call and wait for its confirmations; blocking, for commands.

    Raises `UserError` for what the method says, and what `Invocation.network` raises.
    """
    paths = invocation.paths
    if running_pid(paths.lock_file) is not None:
        return call_daemon(paths.control_socket, method, CALL_TIMEOUT_S, **params)
    loaded = invocation.load()
    if not paths.home.is_dir():
        raise UserError(
            f"there is no home folder {paths.home}; make it with: eigen init",
            ExitCode.CONFIGURATION,
        )
    import trio

    with HomeLock(paths.lock_file):  # the daemon would send from the same account
        opened = _open_chain(invocation, loaded)

        async def work() -> Any:
            from eigen.node.member_methods import member_methods

            async with opened as chain:
                await chain.info()  # the right chain, before anything of it is believed
                return await member_methods(chain.calls)[method](params)

        return trio.run(work)


def _open_chain(invocation: Invocation, loaded: "Loaded") -> "EvmChain":
    from eigen.chain.evm import EvmChain
    from eigen.chain.outbox import OutboxSettings
    from eigen.chain.provider import TrioHTTPProvider
    from eigen.crypto.keystore import load_identity
    from eigen.node.networks import contracts_of

    paths, settings, network = invocation.paths, loaded.config.chain, invocation.network(loaded)
    identity = load_identity(paths.key_file, invocation.passphrase(loaded))
    confirmations = settings.confirmations
    if confirmations is None:
        confirmations = network.parameters.confirmations
    return EvmChain(
        TrioHTTPProvider(
            settings.rpc_urls or network.rpc_urls,
            chain_id=network.chain_id,
            compare_depth=confirmations,
        ),
        contracts_of(network),
        chain_id=network.chain_id,
        secret=identity.secret,
        outbox_path=paths.outbox,
        index_path=paths.index,
        settings=OutboxSettings(confirmations=confirmations, poll_s=settings.poll_s),
        start_block=network.start_block,
    )


def utc(unix_s: int) -> str:
    """A time as people read it."""
    try:
        return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):  # a contract may name any
        return f"second {unix_s}"
