"""The `Network` port on py-libp2p. The only folder that imports libp2p."""
