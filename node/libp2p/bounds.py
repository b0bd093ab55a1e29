"""Every size, count and time of the wire that a peer could otherwise choose, and why it is so."""

from typing import Final

# Connections ------------------------------------------------------------------------------------
HANDSHAKE_TIMEOUT_S: Final = 10.0
"""TCP accept to admission: six round trips and three public-key operations, on a slow line."""
DIAL_TIMEOUT_S: Final = 5.0
"""One TCP connect; Linux retries a SYN after 1 s and 3 s."""
PENDING_MAX: Final = 512
"""Inbound connections still in their handshake, about 40 KB each; the oldest gives way."""
PENDING_PER_IP_MAX: Final = 64
"""As above for one address; an honest peer needs its place for some 20 ms."""
RESERVED_DESCRIPTORS: Final = 128
"""Descriptors left for files, the chain's RPC, the store, dials and bulk lanes."""
CONNECTIONS_PER_PEER_MAX: Final = 4
"""Of one peer, while all but one give way: two dials at once, direct and relayed."""
SIMULTANEOUS_GRACE_S: Final = 10.0
"""How long the losing one of two simultaneous connections may finish its streams."""

# Multistream ------------------------------------------------------------------------------------
MULTISTREAM_LINE_BYTES_MAX: Final = 1024
"""The specification's bound on one negotiation message."""
MULTISTREAM_LINES_MAX: Final = 32
"""Proposals of one negotiation: js and go offer fewer than ten."""
NEGOTIATION_TIMEOUT_S: Final = 10.0
"""To agree on the protocol of a stream."""

# Noise ------------------------------------------------------------------------------------------
NOISE_RECORD_BYTES_MAX: Final = 65_535
"""The Noise specification, section 3; the length prefix has two bytes."""
NOISE_HANDSHAKE_BYTES_MAX: Final = 4096
"""A handshake payload is some 200 bytes; extensions may add muxer names."""

# Yamux ------------------------------------------------------------------------------------------
WINDOW_INITIAL_BYTES: Final = 256 * 1024
"""The specification's initial window of a stream."""
WINDOW_BYTES_MAX: Final = 16 * 1024 * 1024
"""160 MB/s at 100 ms of round trip; granted step by step, only to streams that are read."""
WINDOW_GRANTED_BYTES_MAX: Final = 256 * 1024 * 1024
"""Windows above the initial one, all connections of the process together."""
BUFFERED_PER_CONNECTION_BYTES_MAX: Final = 48 * 1024 * 1024
"""Received and not yet read, one connection; the stream that passes it is reset."""
BUFFERED_BYTES_MAX: Final = 384 * 1024 * 1024
"""As above, all connections of the process together."""
FRAME_BYTES_MAX: Final = 64 * 1024
"""Of one data frame that we send: four noise records a batch, and js-libp2p's own size."""
BATCH_BYTES_MAX: Final = 256 * 1024
"""Frames sealed and sent in one system call: what a control frame may have to wait for."""
LANE_BYTES_MAX: Final = 1024 * 1024
"""Queued for sending on one connection and lane; then writers wait."""
CONTROL_QUEUE_BYTES_MAX: Final = 64 * 1024
"""Window updates and pongs a peer may make us owe it without reading: 5,000 of them."""
UNSENT_BYTES_MAX: Final = 256 * 1024
"""TCP_NOTSENT_LOWAT: what the kernel holds before the link; keeps pings ahead of bulk."""
BULK_UNSENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""As above for a bulk lane on a fast line, where no ping waits: fewer, larger system calls."""
BULK_UNSENT_BYTES_MIN: Final = 32 * 1024
"""On a slow line, where what is urgent would wait behind what the kernel has."""
INBOUND_STREAMS_MAX: Final = 256
"""Open streams that one peer may hold, as in go-yamux."""
STREAM_OPENS_PER_S: Final = 2000.0
"""Streams a peer may open, on average; each costs some 0.1 ms. Those above are reset."""
STREAM_OPENS_BURST: Final = 4000.0
"""As above, at once; a peer that far above its rate again is no honest one."""
PING_INTERVAL_S: Final = 5.0
"""Silence after which the link is probed."""
PING_TIMEOUT_S: Final = 10.0
"""Then a link without any answer is dead: a frozen peer is noticed within 20 s."""
ABANDONED_STREAM_S: Final = 10.0
"""How long a peer may leave a stream half open after we are done with it."""

# Requests ---------------------------------------------------------------------------------------
HANDLERS_PER_PEER_MAX: Final = 32
"""Requests of one peer worked on at a time; more wait inside their windows."""
HANDLER_TIMEOUT_S: Final = 120.0
"""From a whole request to the end of its reply, handler included."""
TRANSFER_FLOOR_BYTES_PER_S: Final = 32 * 1024
"""A peer slower than that holds a request's memory for too long."""
TRANSFER_GRACE_S: Final = 15.0
"""Added to the time that the floor gives."""
REFUSAL_BYTES_MAX: Final = 1024
"""Text of a refusal."""
HELLO_BYTES_MAX: Final = 8 * 1024
"""A network id, a version and eight multiaddrs."""
PEERS_REPLY_BYTES_MAX: Final = 64 * 1024
"""64 peers with four multiaddrs of 256 bytes."""
PEERS_PER_REPLY_MAX: Final = 64
"""As above."""
ADDRESSES_PER_PEER_MAX: Final = 8
"""Multiaddrs remembered of one peer."""
KNOWN_PEERS_MAX: Final = 2048
"""Peers in the address book, some 500 bytes each."""
CLOCK_SKEW_WARN_S: Final = 30.0
"""Rounds run on deadlines of minutes; a clock this far off is worth a line in the log."""

# Reach ------------------------------------------------------------------------------------------
REACH_MESSAGE_BYTES_MAX: Final = 8 * 1024
"""One message of AutoNAT: 4 KiB of dial data, or some addresses; hole punching allows 4 KiB."""
REACH_ADDRESSES_MAX: Final = 8
"""Addresses of one request that are looked at: a node has few that can be dialled."""
DIAL_DATA_BYTES: Final = 48 * 1024
"""What a peer pays before we dial an address that is not the one it comes from: more than a
handshake costs whoever is there, so that nobody gains by having us dial a victim."""
DIAL_DATA_BYTES_MAX: Final = 100_000
"""What we pay for the same: the specification's upper end."""
DIAL_DATA_CHUNK_BYTES: Final = 4096
"""Of one message of dial data, as the specification has it."""
DIAL_BACKS_PER_S: Final = 0.2
"""Dial-backs for one IP address, on average; a node asks once in minutes."""
DIAL_BACKS_BURST: Final = 5.0
"""As above, at once: several nodes behind one router."""
DIAL_BACKS_MAX: Final = 8
"""Dial-backs at a time, all peers together; each holds a socket for up to `DIAL_BACK_TIMEOUT_S`."""
DIAL_BACK_TIMEOUT_S: Final = 8.0
"""TCP, Noise and one message; below what the asker waits."""
DIAL_DATA_TIMEOUT_S: Final = 20.0
"""To receive the dial data, at 2.5 KB/s at least."""
PUNCHES_PER_S: Final = 1 / 60
"""Hole punchings that one peer may ask for, on average; each has up to three tries."""
PUNCHES_BURST: Final = 3.0
"""As above, at once: a connection that is lost soon after."""
PUNCHES_MAX: Final = 8
"""Hole punchings at a time; each holds up to `REACH_ADDRESSES_MAX` sockets."""
PUNCH_TRIES: Final = 3
"""Of one hole punching, as the specification has it."""
PUNCH_TIMEOUT_S: Final = 5.0
"""One try: a SYN that came too early is sent again after 1 s and 3 s."""

# Gossip -----------------------------------------------------------------------------------------
RPC_BYTES_MAX: Final = 1024 * 1024
"""One gossipsub RPC: several messages with their control part; the default of go-libp2p."""
MESSAGES_PER_RPC_MAX: Final = 64
"""Published messages in one RPC."""
CONTROL_PER_RPC_MAX: Final = 256
"""Control entries of one kind, and subscriptions, in one RPC."""
IDS_PER_HEARTBEAT_MAX: Final = 5000
"""Ids that one peer may advertise, or ask of us, between two heartbeats (as go-libp2p)."""
TOPICS_PER_PEER_MAX: Final = 128
"""Topics that one peer may be subscribed to."""
TOPIC_BYTES_MAX: Final = 256
"""Length of a topic's name in UTF-8."""
SEEN_MAX: Final = 65_536
"""Message ids remembered, about 150 bytes each; 100 messages a second for ten minutes."""
SEEN_TTL_S: Final = 600.0
"""How long an id is remembered at least, while there is room."""
NEW_MESSAGES_PER_S: Final = 500.0
"""Messages of one forwarder that are checked, on average; a signature costs some 0.1 ms."""
NEW_MESSAGES_BURST: Final = 2000.0
"""As above, at once: what a node that comes back is told by one peer."""
SEND_QUEUE_MAX: Final = 512
"""RPCs waiting for one peer; forwarded messages beyond it are left to IHAVE."""
DELIVERY_QUEUE_MAX: Final = 1024
"""Accepted messages waiting for a topic's handler; then reading from peers pauses."""
PUBLISH_PER_S: Final = 100.0
"""Own messages a second on average."""
PUBLISH_BURST: Final = 64.0
"""Own messages at once."""
EVENT_QUEUE_MAX: Final = 1024
"""Connection events waiting for one slow listener; then the oldest is dropped and logged."""

# Distributed hash table --------------------------------------------------------------------------
KAD_K: Final = 20
"""Peers a bucket, holders of a record, peers named in an answer: the specification's k."""
KAD_ALPHA: Final = 3
"""Queries of one lookup under way at a time."""
KAD_MESSAGE_BYTES_MAX: Final = 128 * 1024
"""Two lists of 20 peers with eight addresses of 256 bytes are 82 KB; others add signed records."""
KAD_KEY_BYTES_MAX: Final = 128
"""A multihash has 34 bytes here and a peer id 39; longer hashes exist."""
KAD_PEER_ID_BYTES_MAX: Final = 64
"""A peer id of secp256k1 has 39 bytes, of other keys up to 42."""
KAD_PEERS_PER_MESSAGE_MAX: Final = 64
"""Of one list in a message; only the first 20 of an answer are looked at."""
KAD_ADDRESSES_TOLD: Final = 3
"""Addresses told of each peer in an answer, as in peer exchange."""
KAD_QUERY_TIMEOUT_S: Final = 5.0
"""One query of a lookup, the dial included: a dead peer costs no more."""
KAD_LOOKUP_TIMEOUT_S: Final = 60.0
"""One lookup; 100 queries, three at a time, of which a third time out."""
KAD_QUERIES_PER_LOOKUP_MAX: Final = 100
"""Peers asked in one lookup, whatever they answer: five times k."""
KAD_CANDIDATES_MAX: Final = 256
"""Peers that one lookup keeps in mind; the farthest are forgotten."""
KAD_LOOKUPS_MAX: Final = 8
"""Lookups under way at a time, all that this node wants together."""
KAD_REQUESTS_PER_S: Final = 50.0
"""Requests of one peer that are answered, on average; each costs some 1 ms."""
KAD_REQUESTS_BURST: Final = 500.0
"""As above, at once."""
KAD_SILENCE_S: Final = 30.0
"""Between two requests on one stream."""
KAD_PROBES_MAX: Final = 256
"""Peers waiting to be asked whether they answer the DHT: as many as may be connected."""
KAD_BORROWED_MAX: Final = 64
"""Connections that lookups opened and that are more than this node wants."""
PROVIDER_RECORDS_MAX: Final = 16_384
"""Provider records held for others, all keys together; some 400 bytes each."""
PROVIDERS_PER_KEY_MAX: Final = 20
"""Of one content: enough to choose from, and it fits an answer."""
PROVIDER_KEYS_PER_PEER_MAX: Final = 1024
"""Contents that one peer may have announced here: a sixteenth of all records."""
PROVIDER_LIFE_S: Final = 24 * 3600.0
"""How long a record stands: machines at home go off for the night, and one that is gone for good
misleads for a day at most. The specification asks for 48 h on a public network."""
PROVIDER_RENEW_S: Final = 12 * 3600.0
"""How often a record is announced again: one renewal may fail before it is forgotten."""
