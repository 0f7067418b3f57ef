-- migrate:up

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- The row of a rule has what the newest version says, and from and until when that version looks at events.
ALTER TABLE rules
ADD COLUMN version bigint NOT NULL DEFAULT 1,
ADD COLUMN effective_from timestamptz,
ADD COLUMN effective_to timestamptz;
-- squawk-ignore ban-drop-default
ALTER TABLE rules ALTER COLUMN version DROP DEFAULT;

-- What each rule has said since it became active: what it did is explained by it, and older events are assessed by it.
CREATE TABLE rule_versions (
    tenant_id uuid NOT NULL,
    rule_id uuid NOT NULL,
    version bigint NOT NULL,
    -- The content alone: the status is the rule's.
    definition jsonb NOT NULL,
    -- Null: events of any time before the end.
    effective_from timestamptz,
    -- Null: it has not been replaced.
    effective_to timestamptz,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, rule_id, version),
    FOREIGN KEY (tenant_id, rule_id) REFERENCES rules (tenant_id, rule_id)
);

-- The rules that were there: those that may have done something have it as their first version.
UPDATE rules SET effective_to = changed_at WHERE status IN ('inactive', 'archived');
INSERT INTO rule_versions (tenant_id, rule_id, version, definition, effective_from, effective_to, created_at)
SELECT tenant_id, rule_id, version, definition - 'status', effective_from, effective_to, created_at
FROM rules
WHERE status NOT IN ('configure', 'test');

ALTER TABLE rule_versions ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON rule_versions TO tallymarks_service
USING (tenant_id = nullif(current_setting('tallymarks.tenant_id', true), '')::uuid);

-- What a version says nobody but the owner may change.
GRANT SELECT, INSERT ON rule_versions TO tallymarks_service;
GRANT UPDATE (effective_to) ON rule_versions TO tallymarks_service;

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore ban-drop-table
DROP TABLE rule_versions;
-- squawk-ignore ban-drop-column
ALTER TABLE rules DROP COLUMN version, DROP COLUMN effective_from, DROP COLUMN effective_to;
