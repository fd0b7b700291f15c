"""Losses, optimisers, schedules and the loop."""
