"""Further boxes that train what this one's queue has (docs/cluster.md)."""
