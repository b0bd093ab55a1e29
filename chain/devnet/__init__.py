"""A chain on one's own machine: a real Anvil for daemons, py-evm in process for unit tests."""
