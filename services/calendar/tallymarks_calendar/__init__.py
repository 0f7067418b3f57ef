"""The calendar: publishes what falls due as events, anniversaries and triggers."""
