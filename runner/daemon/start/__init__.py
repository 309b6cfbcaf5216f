"""What a new daemon takes up from the one before it."""
