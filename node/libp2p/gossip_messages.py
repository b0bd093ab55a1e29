"""Gossipsub's protobuf messages: signing, checking, naming. Knows no peer and no mesh.

`StrictSign` of libp2p's `pubsub/README.md`: a message carries its author's peer id, a sequence
number and a signature over the prefix `libp2p-pubsub:` and itself without the signature.
"""

from collections.abc import Iterable
from typing import Final

from google.protobuf.message import DecodeError
from libp2p.pubsub.pb import rpc_pb2

from eigen.node.libp2p.bounds import CONTROL_PER_RPC_MAX, MESSAGES_PER_RPC_MAX, TOPIC_BYTES_MAX
from eigen.node.libp2p.errors import HandshakeFailed, ProtocolViolation
from eigen.node.libp2p.identity import (
    ID,
    NodeKey,
    address_of_peer,
    peer_of_wrapped_key,
    verify_signature,
)
from eigen.node.libp2p.multistream import encode_varint
from eigen.protocol.limits import GOSSIP_MESSAGE_BYTES_MAX
from eigen.protocol.types import Address

Message = rpc_pb2.Message
Rpc = rpc_pb2.RPC
Control = rpc_pb2.ControlMessage
IHave = rpc_pb2.ControlIHave
IWant = rpc_pb2.ControlIWant
Graft = rpc_pb2.ControlGraft
Prune = rpc_pb2.ControlPrune

PREFIX: Final = b"libp2p-pubsub:"
SEQNO_BYTES: Final = 8
PEER_ID_BYTES_MAX: Final = 64
MESSAGE_ID_BYTES_MAX: Final = PEER_ID_BYTES_MAX + SEQNO_BYTES


def sign(key: NodeKey, topic: str, data: bytes, seqno: int) -> Message:
    """A signed message of this node."""
    message = Message(
        from_id=key.peer_id.to_bytes(),
        data=data,
        seqno=seqno.to_bytes(SEQNO_BYTES),
        topicIDs=[topic],
    )
    message.signature = key.sign(PREFIX + message.SerializeToString())
    return message


def message_id(message: Message) -> bytes:
    """The default id: author and sequence number."""
    return message.from_id + message.seqno


def author_of(message: Message) -> Address | None:
    """Whose message it is, or None for an author without a secp256k1 key."""
    try:
        return address_of_peer(ID(message.from_id))
    except HandshakeFailed:
        return None


def check_form(message: Message) -> None:
    """Raises `ProtocolViolation` where a message breaks a bound; costs no cryptography."""
    if len(message.topicIDs) != 1:
        raise ProtocolViolation("a gossip message without exactly one topic")
    _check_topic(message.topicIDs[0])
    if len(message.data) > GOSSIP_MESSAGE_BYTES_MAX:
        raise ProtocolViolation(f"a gossip message of {len(message.data)} bytes")
    if len(message.seqno) != SEQNO_BYTES or not 0 < len(message.from_id) <= PEER_ID_BYTES_MAX:
        raise ProtocolViolation("a gossip message without author or sequence number")


def check_signature(message: Message) -> None:
    """Raises `ProtocolViolation` unless the author signed the message. Total on any bytes."""
    author = message.from_id
    wrapped = author[2:]
    if author[:2] != bytes([0, len(wrapped)]):  # the id is a hash: the key comes along
        wrapped = message.key
        try:
            if peer_of_wrapped_key(wrapped) != ID(author):
                raise ProtocolViolation("a gossip message whose key is not its author's")
        except HandshakeFailed as error:
            raise ProtocolViolation("a gossip message with a bad key") from error
    bare = Message(
        from_id=author, data=message.data, seqno=message.seqno, topicIDs=message.topicIDs
    )
    if not verify_signature(wrapped, PREFIX + bare.SerializeToString(), message.signature):
        raise ProtocolViolation("a gossip message with a bad signature")


def frame(rpc: Rpc) -> bytes:
    """An RPC with its length, as it goes on a stream."""
    body = rpc.SerializeToString()
    return encode_varint(len(body)) + body


def subscriptions(topics: Iterable[str], *, joined: bool) -> bytes:
    """A frame that announces topics joined or left."""
    return frame(Rpc(subscriptions=[Rpc.SubOpts(subscribe=joined, topicid=t) for t in topics]))


def parse(body: bytes) -> Rpc:
    """Read an RPC and check its counts. Raises `ProtocolViolation`, whatever the bytes are."""
    try:
        rpc = Rpc.FromString(body)
    except DecodeError as error:
        raise ProtocolViolation("a gossip RPC that is not protobuf") from error
    control = rpc.control
    if len(rpc.publish) > MESSAGES_PER_RPC_MAX:
        raise ProtocolViolation(f"a gossip RPC with {len(rpc.publish)} messages")
    for entries in (rpc.subscriptions, control.ihave, control.iwant, control.graft, control.prune):
        if len(entries) > CONTROL_PER_RPC_MAX:
            raise ProtocolViolation(f"a gossip RPC with {len(entries)} control entries of a kind")
    named = [entry.topicid for entry in rpc.subscriptions]
    for controls in (control.ihave, control.graft, control.prune):
        named += [entry.topicID for entry in controls]
    for topic in named:
        _check_topic(topic)
    return rpc


def _check_topic(topic: object) -> None:
    if not isinstance(topic, str):  # protobuf hands invalid UTF-8 out as bytes
        raise ProtocolViolation("a topic whose name is not UTF-8")
    if not 0 < len(topic.encode()) <= TOPIC_BYTES_MAX:
        raise ProtocolViolation("a topic without a name or with too long a one")
