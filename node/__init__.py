"""The daemon: composition root, services, store, control API and command line."""
