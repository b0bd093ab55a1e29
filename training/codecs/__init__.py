"""How a part of a vector travels: one file a family of codecs, one registry, error feedback."""
