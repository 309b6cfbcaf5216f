"""The agent of a further box: trains what the head places here (docs/cluster.md)."""
