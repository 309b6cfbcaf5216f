"""What the commands of `runner` do; each module is one verb and imports only what it needs."""
