"""The page and the API on the office network: they read the box's files, and drop like anybody."""
