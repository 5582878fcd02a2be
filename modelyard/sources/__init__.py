"""Where bytes come from: a pinned listing, and the bytes of each file in order."""
