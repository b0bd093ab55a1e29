"""Every bound on what a peer controls, and why it is what it is.

Sizes in bytes, times in seconds. A message that passes a bound is refused with an error that names
the bound; nothing is allocated for it first.
"""

# Wire -----------------------------------------------------------------------------------------
GOSSIP_MESSAGE_BYTES_MAX = 64 * 1024
"""Gossip is small and rare; py-libp2p drops payloads of 1 MiB silently, we stay far below."""
SIGNATURE_BYTES = 65
"""secp256k1 r‖s‖v as Ethereum has it."""
TEXT_BYTES_MAX = 256
"""Names and short labels."""
DESCRIPTION_BYTES_MAX = 4 * 1024
"""A proposal's text; longer arguments belong behind a link."""
CID_BYTES_MAX = 64
"""CIDv1 with sha2-256 in base32 is 59 characters."""
U64_MAX = 2**64 - 1
"""The largest integer that msgpack and Solidity's uint64 share."""

# Membership -----------------------------------------------------------------------------------
MEMBERS_MAX = 4096
"""Nodes remembered on one network; about 2 KB each. The stalest is forgotten first."""
MULTIADDRS_MAX = 8
"""Addresses that one heartbeat may advertise."""
MULTIADDR_BYTES_MAX = 256
"""A multiaddr with a relay hop and two peer ids is about 170 characters."""
SEALING_KEY_BYTES_MAX = 2048
"""An ML-KEM768 + X25519 public key has 1,216 bytes."""
ROLES_MAX = 4
"""Roles that one node may announce."""

# Governance -----------------------------------------------------------------------------------
PROPOSALS_MAX = 256
"""Open proposals remembered; the chain keeps the rest."""
PROPOSED_CALLS_MAX = 8
"""Calls of one proposal: with a run spec they fit a gossip message."""
PROPOSED_CALL_BYTES_MAX = 4 * 1024
"""Calldata of one call; naming 64 validators takes 2,148 bytes."""
BALLOTS_PER_PROPOSAL_MAX = 4096
"""Ballots held until they are relayed, about 200 bytes each."""
BALLOTS_PER_RELAY_MAX = 64
"""About 4.2M gas in one transaction, well under the 16.78M cap of EIP-7825."""
CLAIMS_PER_RELAY_MAX = 128
"""About 5M gas in one transaction where all of them are first claims."""
MODEL_OPTIONS_MAX = 32
"""Options of one architecture."""

# Datasets -------------------------------------------------------------------------------------
SHARDS_MAX = 1024
"""Shards of one dataset; a manifest of that size stays under 128 KiB."""
MANIFEST_BYTES_MAX = 256 * 1024
"""A manifest is parsed whole in memory."""
WRAPPED_KEY_BYTES_MAX = 2048
"""An HPKE-wrapped data key with a hybrid KEM has 1,168 bytes."""

# Rounds ---------------------------------------------------------------------------------------
ROUNDS_MAX = 1_000_000
"""Rounds of one run."""
TRAINERS_MAX = 128
"""Trainers in one seat. More would make a vote that names each result outgrow a gossip message."""
GROUP_MAX = 16
"""Trainers who hand their parts to each other; a larger seat forms groups, each half as many at
least."""
VALIDATORS_MAX = 64
"""As the ledger."""
PARTS_MAX = 1024
"""Parts of one vector, so that a vote naming each result fits a gossip message."""
PART_VALUES_MAX = 131_072
"""512 KiB of fp32 in one part: streaming granularity of the exchange."""
PART_BYTES_MAX = PART_VALUES_MAX * 4 + 64 * 1024
"""An encoded part: never larger than fp32 and some header."""
LOSS_TRACE_MAX = 1024
"""Inner steps of one round whose loss is reported."""
SKETCH_BYTES = 256
"""64 fp32 values."""
PAYEES_MAX = 768
"""Accounts in one run's payout table, so that a record fits a gossip message."""
CHECKS_MAX = 256
"""Replays that are due in one run. More are not drawn until some are done."""
EJECTED_MAX = 256
"""Trainers that one run's validators threw out."""
HELD_ROUNDS_MAX = 1024
"""Rounds over which pay is released."""
RESIDUAL_CHUNK_BYTES = 4096
"""A leaf of the tree over a residual: 1,024 fp32 values are opened at a time."""
CHUNKS_OPENED = 32
"""Chunks of two residuals that a validator asks of a trainer: 256 KiB and their proofs."""
DEVIATION_MAX = 1e9
"""Of a replayed update from the committed one, relative: larger ones say nothing more."""
ATTEMPTS_MAX = 1_000
"""Attempts at one round before a person must look."""
ATTEMPTS_REMEMBERED = 4
"""Attempts of one round whose evidence is kept."""
ATTEMPTS_OF_ALL = 2
"""Attempts that seat all trainers; later ones leave one out in turn, in case it spoils them."""
READY_BEHIND_MAX = 2
"""A trainer is seated that holds a checkpoint of so many rounds ago: its fetch takes that long."""
EARLY_MAX = 1024
"""Statements held for an attempt or a round that is not open here yet: over two seats' worth."""
UPLOAD_MAX = 2**32
"""KiB a second that a trainer may say of its line: 32 Tbit/s."""
EARLY_OF_PEER_MAX = 16
"""Of these, from one peer: a commitment, a vote and a notice in five attempts."""
MERKLE_PROOF_MAX = 32
"""Levels of a proof: 2^32 leaves."""

# Blobs ----------------------------------------------------------------------------------------
BLOCK_BYTES_MAX = 1024 * 1024
"""One content-addressed block; IPFS peers refuse more than 2 MiB."""
DAG_LINKS_MAX = 174
"""Links of one UnixFS node, as kubo writes them."""
BLOB_BYTES_MAX = 4 * 1024**3
"""One shard or checkpoint; larger ones are several."""
BLOCKS_IN_FLIGHT = 8
"""Blocks asked of peers at a time, each of another peer: 8 MiB of memory a transfer."""

# Conduct --------------------------------------------------------------------------------------
SCORE_DISCONNECT = -100.0
"""Below this a peer is dropped and not dialled for a while."""
PENALTY_MALFORMED = 20.0
"""Bytes that no honest node sends: five of them disconnect."""
PENALTY_BAD_DATA = 34.0
"""Data that does not match its hash or commitment: three of them disconnect."""

# Private jobs -----------------------------------------------------------------------------------
JOB_SHARDS_MAX = 32
"""Shards of one private job, and seats of a question: more could wrap a sum around (512)."""
JOB_ROWS_MAX = 4096
"""Rows of one shard: a ciphertext's slots."""
JOB_FEATURES_MAX = 4096
"""Features of one row: 3.5 GB of ciphertexts in memory where a shard is full."""
JOB_OUTPUTS_MAX = 128
"""Outputs of a head, each with a gradient of its own."""
JOB_CIPHERTEXTS_MAX = 65_536
"""Ciphertexts of one blob: 6.2 GB of gradients."""
JOB_ROUNDS_MAX = 10_000
"""Rounds of one private job; heads on good features take 20."""
JOB_ROUND_S_MAX = 86_400
"""A round that takes longer than a day is no round."""
JOB_INPUTS_MAX = 2
"""Sums that one seat adds to its own: a binary tree."""
JOB_QUESTIONS_MAX = 4
"""Questions of one round whose sums one step is made of; then the round begins anew."""
JOB_RETRIES_MAX = 20
"""Questions of one round without an answer before the job fails."""
JOB_KEY_BYTES_MAX = 24 * 1024 * 1024
"""Evaluation keys for twelve rotations have 16 MB."""
JOB_CIPHERTEXT_BYTES_MAX = 256 * 1024
"""A seeded ciphertext of five primes has 198 kB, a summed one of one prime 95 kB."""
JOBS_KNOWN_MAX = 64
"""Jobs of others that a node remembers; the oldest is forgotten first."""
JOBS_OF_OWNER_MAX = 8
"""Of these, of one owner."""
JOBS_TRAINED_MAX = 8
"""Jobs that a node trains at a time: with `JOB_SEAT_BYTES_MAX`, what they may take of its disk."""
JOB_SEAT_BYTES_MAX = 4 * 1024**3
"""Shards of one seat, as they are stored."""
JOB_PAID_ROUNDS_MAX = 1000
"""Rounds of a job that is paid for: validators read all of them at its end."""
JOB_EVIDENCE_BYTES_MAX = 32 * 1024**2
"""So many rounds of 32 sums of 420 bytes, with their questions."""
JOB_PAYEES_MAX = 1024
"""Trainers that one job pays: a thousand rows of a record still travel as gossip."""
JOB_VERDICTS_MAX = 1024
"""Verdicts that exclude them."""
JOBS_SETTLED_MAX = 64
"""Jobs whose money a validator follows at a time, each at a few calls a look."""
JOB_IDLE_S = 3600.0
"""A job that nobody asks for so long makes room for another."""
