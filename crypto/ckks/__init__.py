"""CKKS over Microsoft SEAL, as TenSEAL binds it: arithmetic on numbers that nobody else can read.

`secret` is the owner's side and holds the key; `evaluation` is everybody else's and never meets it.
Both agree on `parameters`, which are constants: nothing that a peer sends chooses them.
"""
