-- migrate:up

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- Nothing is ever updated: without it, the rows that are to be removed could not be locked.
GRANT UPDATE (recorded_at) ON assessments TO tallymarks_service;

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

REVOKE UPDATE (recorded_at) ON assessments FROM tallymarks_service;
