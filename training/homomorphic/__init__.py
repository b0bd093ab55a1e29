"""Linear heads trained on ciphertexts: the owner's side, the trainers' side, and what both know.

The owner has the data and the key; trainers have ciphertexts. `layout` and `circuit` are shared,
`owner` and `gradients` are one for each side, `plaintext` is the same arithmetic in the clear.
"""
