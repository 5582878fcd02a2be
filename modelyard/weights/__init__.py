"""What weight files can do to whoever loads them: pickles run what they import."""
