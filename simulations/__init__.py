"""The daemon's own machines and services on a virtual network."""
