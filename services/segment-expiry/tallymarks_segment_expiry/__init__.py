"""The segment-expiry worker: removes lapsed memberships."""
