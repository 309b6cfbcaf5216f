"""Turns what happens in the inbox into runs: small, long-lived, and never importing torch."""
