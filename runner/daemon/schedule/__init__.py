"""Schedules: specs that stay in jobs/scheduled/ and start runs, and the hours of the card."""
