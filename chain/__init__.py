"""One port, several chains: what the daemon needs of any ledger, and who provides it."""
