"""What peers agree on: messages, limits and state machines.

Knows no clock, socket, torch or chain.
"""
