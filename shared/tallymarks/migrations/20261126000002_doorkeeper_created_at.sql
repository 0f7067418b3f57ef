-- migrate:up

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- By its createdAt an event that was taken in before is told from the one that is being taken in: so it need not be
-- looked up first.
GRANT SELECT (created_at) ON events TO tallymarks_doorkeeper;

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

REVOKE SELECT (created_at) ON events FROM tallymarks_doorkeeper;
