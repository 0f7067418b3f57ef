-- What a program without batches does for one order, in one transaction of its own: record the event, add a ledger row,
-- write the balance; on the tables of the migrations with all their indexes.
\set customer random(1, :customers)
\set event random(1, 9000000000000000000)
\set amount random(1, 100)
BEGIN;
INSERT INTO events (
    tenant_id, event_id, customer_id, event_type, created_at, recorded_at, assessed_at, body
)
VALUES (
    :tenant, md5(:event::text)::uuid, ('00000000-0000-4000-8000-' || lpad(:customer::text, 12, '0'))::uuid, 'order',
    now(), now(), now(), :body
);
INSERT INTO transactions (
    tenant_id, transaction_id, customer_id, event_id, event_type, created_at, recorded_at, check_sum, description, amount
)
VALUES (
    :tenant, gen_random_uuid(), ('00000000-0000-4000-8000-' || lpad(:customer::text, 12, '0'))::uuid,
    md5(:event::text)::uuid, 'order', now(), now(), sha256((:event::text)::bytea), 'Points per unit', :amount::bigint
);
UPDATE accounts
SET
    balance = balance + :amount::bigint, balance_changed_at = now(), order_count = order_count + 1,
    order_value = order_value + :amount
WHERE
    tenant_id = :tenant AND customer_id = ('00000000-0000-4000-8000-' || lpad(:customer::text, 12, '0'))::uuid;
COMMIT;
