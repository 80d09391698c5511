"""Several finished runs side by side: what differs between them, and by how much."""
