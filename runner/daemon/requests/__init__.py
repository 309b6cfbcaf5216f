"""What commands ask of the daemon: one verb, one file."""
