"""The `Network` port on py-libp2p. The only folder that imports libp2p."""

from eigen.node.libp2p import lazy

lazy.install()
