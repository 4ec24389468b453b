"""Networks and the retrieval distribution of the paper (Eq. 1)."""
