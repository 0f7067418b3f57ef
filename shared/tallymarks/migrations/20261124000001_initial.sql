-- migrate:up

-- The rules that this schema keeps, so that it can be distributed by tenant: tenant_id comes first in every key and index
-- of tenant data; no trigger, no rule, no exclusion constraint; no default that a statement on another node would compute
-- differently; times are timestamptz and are given by the application.

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS btree_gin;

-- The services act as this role: it is granted what they do and no more. Roles belong to the whole server, so
-- another database of it may have made the role already, at this very moment even. NOINHERIT keeps the policy of the
-- housekeeper (below) from widening what this role sees.
DO $$
BEGIN
    CREATE ROLE tallymarks_service NOLOGIN NOINHERIT;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- Sees which tenants there are and which have lapsed memberships, and nothing else.
DO $$
BEGIN
    CREATE ROLE tallymarks_housekeeper NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

-- Finds customers by keyword, and sees nothing of them but their ids. The planner does not use an index on LIKE below a
-- row-level policy (LIKE might leak what it compares), so this role has none; what it finds is read under the policy.
DO $$
BEGIN
    CREATE ROLE tallymarks_searcher NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;
DO $$
BEGIN
    GRANT tallymarks_housekeeper, tallymarks_searcher TO tallymarks_service;
EXCEPTION
    -- Without the right to, the roles are another installation's of this server, which has granted them.
    WHEN insufficient_privilege OR unique_violation THEN NULL;
END
$$;

-- Whoever migrates may run the services too; another login of theirs is to be made a member of tallymarks_service.
DO $$
BEGIN
    EXECUTE format('GRANT tallymarks_service TO %I', current_user);
EXCEPTION
    WHEN insufficient_privilege OR unique_violation THEN
        RAISE NOTICE 'no right to make % a member of tallymarks_service: it has to be one for the services', current_user;
END
$$;

-- Shared by all tenants.

CREATE TABLE tenants (
    tenant_id uuid PRIMARY KEY,
    name text NOT NULL,
    -- Signs the paging keys of this tenant, so that every replica can tell a forged one.
    paging_secret bytea NOT NULL,
    -- Goes up with every change of a rule or a segment: what assessors compare their copy with.
    rules_revision bigint NOT NULL,
    created_at timestamptz NOT NULL
);

-- What has to reach the broker, written with what it tells of; a relay publishes and deletes it.
CREATE TABLE outbox (
    outbox_id uuid PRIMARY KEY,
    tenant_id uuid,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL
);

-- Tenant data.

CREATE TABLE api_keys (
    tenant_id uuid NOT NULL REFERENCES tenants (tenant_id),
    api_key text NOT NULL,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('integration', 'admin')),
    secret_sha256 bytea NOT NULL,
    is_enabled boolean NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, api_key)
);

CREATE TABLE segments (
    tenant_id uuid NOT NULL REFERENCES tenants (tenant_id),
    segment_id uuid NOT NULL,
    name text NOT NULL,
    display_name text,
    description text,
    status text NOT NULL,
    expiry jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, segment_id),
    CONSTRAINT segments_name_key UNIQUE (tenant_id, name)
);

CREATE TABLE rules (
    tenant_id uuid NOT NULL REFERENCES tenants (tenant_id),
    rule_id uuid NOT NULL,
    status text NOT NULL,
    event_type text NOT NULL,
    -- The whole rule as it was posted: it is only ever read whole.
    definition jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, rule_id)
);

CREATE TABLE customers (
    tenant_id uuid NOT NULL REFERENCES tenants (tenant_id),
    customer_id uuid NOT NULL,
    first_name text,
    last_name text,
    display_name text,
    email_address text,
    -- The address without regard to case; the application folds it, so that no locale decides.
    email_address_folded text,
    mobile_number text,
    optin_sms boolean NOT NULL,
    optin_email boolean NOT NULL,
    accept_terms boolean NOT NULL,
    attributes jsonb NOT NULL,
    date_of_birth timestamptz,
    contact_phone text,
    external_reference text,
    external_status text,
    search_text text NOT NULL,
    -- Null for a customer that an event made and nobody has registered yet.
    registered_at timestamptz,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, customer_id)
);
CREATE UNIQUE INDEX customers_email_address_key ON customers (tenant_id, email_address_folded)
WHERE email_address_folded IS NOT NULL;
CREATE INDEX customers_search_text_idx ON customers USING gin (tenant_id, search_text gin_trgm_ops);

-- One row a customer: what is locked by whoever moves points. Narrow, and updated in place (the free space of a page).
CREATE TABLE accounts (
    tenant_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    balance bigint NOT NULL,
    balance_changed_at timestamptz,
    is_locked boolean NOT NULL,
    PRIMARY KEY (tenant_id, customer_id),
    FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, customer_id)
) WITH (fillfactor = 70);

-- What was accepted and took effect: its key is what makes an event count once.
CREATE TABLE events (
    tenant_id uuid NOT NULL,
    event_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    event_type text NOT NULL,
    name_space text,
    reference text,
    created_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    -- Null for a redemption that is debited and not assessed yet.
    assessed_at timestamptz,
    body jsonb NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
);
CREATE INDEX events_customer_idx ON events (tenant_id, customer_id, created_at DESC, event_id DESC);
CREATE INDEX events_created_at_idx ON events (tenant_id, created_at DESC, event_id DESC);

-- The ledger: append only.
CREATE TABLE transactions (
    tenant_id uuid NOT NULL,
    transaction_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    event_id uuid NOT NULL,
    event_type text NOT NULL,
    -- Null for what the event itself does: a redemption, a manual adjustment.
    assessment_rule_id uuid,
    created_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    check_sum bytea NOT NULL,
    name_space text,
    description text,
    amount bigint NOT NULL,
    external_reference text,
    PRIMARY KEY (tenant_id, transaction_id),
    CONSTRAINT transactions_check_sum_key UNIQUE (tenant_id, check_sum)
);
CREATE INDEX transactions_customer_idx ON transactions (tenant_id, customer_id, created_at DESC, transaction_id DESC);
CREATE INDEX transactions_created_at_idx ON transactions (tenant_id, created_at DESC, transaction_id DESC);
CREATE INDEX transactions_event_idx ON transactions (tenant_id, event_id);

CREATE TABLE segment_memberships (
    tenant_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    segment_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    source_event_id uuid,
    -- Null: never.
    expiry_date_time timestamptz,
    PRIMARY KEY (tenant_id, customer_id, segment_id),
    FOREIGN KEY (tenant_id, segment_id) REFERENCES segments (tenant_id, segment_id)
);
CREATE INDEX segment_memberships_expiry_idx ON segment_memberships (tenant_id, expiry_date_time)
WHERE expiry_date_time IS NOT NULL;

-- Each membership that lapsed, once.
CREATE TABLE segment_lapses (
    tenant_id uuid NOT NULL,
    customer_id uuid NOT NULL,
    segment_id uuid NOT NULL,
    joined_at timestamptz NOT NULL,
    lapsed_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, customer_id, segment_id, lapsed_at, joined_at)
);

-- The second wall between tenants: whatever a statement says, it sees the rows of the tenant that its transaction is for.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'tenants', 'api_keys', 'segments', 'rules', 'customers', 'accounts', 'events', 'transactions', 'segment_memberships',
        'segment_lapses'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY tenant_isolation ON %I TO tallymarks_service '
            'USING (tenant_id = nullif(current_setting(''tallymarks.tenant_id'', true), '''')::uuid)',
            name
        );
    END LOOP;
END
$$;
CREATE POLICY finds_customers ON customers FOR SELECT TO tallymarks_searcher USING (true);
CREATE POLICY lists_tenants ON tenants FOR SELECT TO tallymarks_housekeeper USING (true);
CREATE POLICY sees_lapses ON segment_memberships FOR SELECT TO tallymarks_housekeeper USING (true);

-- What the services may do. Nobody but the owner may change or delete what the ledger says.
GRANT USAGE ON SCHEMA public TO tallymarks_service, tallymarks_housekeeper, tallymarks_searcher;
GRANT SELECT, INSERT ON tenants TO tallymarks_service;
GRANT UPDATE (rules_revision) ON tenants TO tallymarks_service;
GRANT SELECT, INSERT, UPDATE ON api_keys, segments, rules, customers, accounts TO tallymarks_service;
GRANT SELECT, INSERT ON events, transactions, segment_lapses TO tallymarks_service;
GRANT UPDATE (assessed_at) ON events TO tallymarks_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON segment_memberships, outbox TO tallymarks_service;
GRANT SELECT (tenant_id, customer_id, search_text) ON customers TO tallymarks_searcher;
GRANT SELECT (tenant_id) ON tenants TO tallymarks_housekeeper;
GRANT SELECT (tenant_id, expiry_date_time) ON segment_memberships TO tallymarks_housekeeper;

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore ban-drop-table
DROP TABLE segment_lapses, segment_memberships, transactions, events, accounts, customers, rules, segments, api_keys, outbox,
tenants;
