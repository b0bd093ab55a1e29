"""Errors of the development chain.

DevnetError (a ChainError)
├── DevnetUnavailable   no Anvil can be had on this machine; says what was tried and what to install
├── DevnetFailed        Anvil was started and did not answer, or ended; carries the end of its log
└── InstallFailed       npm could not install what a lock file pins
"""

from eigen.chain.port import ChainError


class DevnetError(ChainError):
    """Base of what starting and running a development chain raises."""


class DevnetUnavailable(DevnetError):
    """No Anvil can be had. The message lists what was tried, in order, and what to install."""


class DevnetFailed(DevnetError):
    """Anvil was started and did not answer in time, or ended by itself."""


class InstallFailed(DevnetError):
    """npm could not install what a lock pins: not there, not reachable, or a digest differs."""
