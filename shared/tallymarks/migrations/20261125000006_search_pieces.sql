-- migrate:up

SET LOCAL lock_timeout = '10s';
-- Every customer is read once: about a minute a million.
SET LOCAL statement_timeout = '30min';

-- The characters of a text, and its pairs of neighbouring characters: what a keyword too short for a trigram is found by.
-- Computes the same everywhere and whatever the locale, so an index can be made of it.
CREATE FUNCTION search_pieces(searched text) RETURNS text []
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN string_to_array(searched, NULL) || ARRAY(
    SELECT here || next
    FROM unnest(string_to_array(searched, NULL), (string_to_array(searched, NULL))[2:]) AS neighbours (here, next)
    WHERE next IS NOT NULL
);

-- Customers are not written meanwhile; events are accepted all the same, and assessed afterwards.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX customers_search_pieces_idx ON customers USING gin (tenant_id, search_pieces(search_text));

-- migrate:down

SET LOCAL lock_timeout = '10s';
SET LOCAL statement_timeout = '60s';

-- squawk-ignore require-concurrent-index-deletion
DROP INDEX customers_search_pieces_idx;
-- squawk-ignore ban-drop-function
DROP FUNCTION search_pieces(text);
