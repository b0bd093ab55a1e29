"""What a person sets: the schema, where each value came from, paths and network files."""
