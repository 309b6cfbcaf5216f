"""The shared folder jobs/: what is dropped there, and the answers that are written there."""
