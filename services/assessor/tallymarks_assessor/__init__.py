"""The assessor: turns events into points, balances and memberships."""
