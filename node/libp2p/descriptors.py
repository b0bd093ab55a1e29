"""How many connections the process's open-file limit has room for."""

import logging

from eigen.node.libp2p.bounds import PENDING_MAX, RESERVED_DESCRIPTORS

log = logging.getLogger(__name__)

LEAST = 8
"""Below this a node is of no use; then accepting fails now and then, and is tried again."""


def connections_allowed(wanted: int) -> int:
    """`wanted`, or less where the hard limit on open files has no room for them.

    Raises the soft limit as far as is needed; many systems start processes with 1,024 or 256.
    """
    try:
        import resource
    except ImportError:  # not a Unix
        return wanted
    needed = wanted + PENDING_MAX + RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        except (OSError, ValueError) as error:
            log.debug("the limit on open files stays at %d: %s", soft, error)
        allowed = max(LEAST, min(wanted, soft - PENDING_MAX - RESERVED_DESCRIPTORS))
        if allowed < wanted:
            log.warning(
                "%d connections instead of %d: raise the limit on open files (ulimit -n) to %d",
                allowed,
                wanted,
                needed,
            )
        return allowed
    return wanted
