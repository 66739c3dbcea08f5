"""Alarms: book of episodes, subscription hub, operator calls."""
