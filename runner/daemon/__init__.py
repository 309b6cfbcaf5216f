"""The daemon: turns drops in the inbox into runs; small, long-lived, never importing torch."""
