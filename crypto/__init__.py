"""Identity, typed-data signatures, Merkle commitments and sealed shards."""
