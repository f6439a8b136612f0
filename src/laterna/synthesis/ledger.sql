-- The ledger's tables. Each version adds to the one before: a new ledger takes all steps, an old
-- one the last. `body` is the answer as it came, from which it is read, `reply` and the rest are
-- for SQL.

-- version 1
PRAGMA application_id = 1279349842;
CREATE TABLE identities (
    id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE,
    answers INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0);
CREATE TABLE openings (
    id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, messages TEXT NOT NULL);
CREATE TABLE owners (owner TEXT);
CREATE TABLE batches (
    tag TEXT PRIMARY KEY, identity INTEGER NOT NULL, owner TEXT,
    batch_id TEXT, collected INTEGER NOT NULL DEFAULT 0, made_at REAL NOT NULL);
CREATE TABLE requests (
    key TEXT PRIMARY KEY, identity INTEGER NOT NULL, opening INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('claimed', 'answered')), owner TEXT, batch TEXT,
    claimed_at REAL NOT NULL, answered_at REAL, seconds REAL, finish_reason TEXT,
    prompt_tokens INTEGER, completion_tokens INTEGER, last_message TEXT NOT NULL, reply TEXT);
CREATE INDEX requests_of_batch ON requests (batch) WHERE batch IS NOT NULL;
CREATE INDEX requests_claimed ON requests (owner) WHERE state = 'claimed';

-- version 2
ALTER TABLE requests ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN body BLOB;
ALTER TABLE identities ADD COLUMN estimated INTEGER NOT NULL DEFAULT 0;
CREATE TABLE failures (
    identity INTEGER NOT NULL, reason TEXT NOT NULL, said TEXT NOT NULL, calls INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    estimated INTEGER NOT NULL, body BLOB, PRIMARY KEY (identity, reason));
DROP VIEW IF EXISTS calls;
CREATE VIEW calls AS
    SELECT key, state, json_extract(identities.identity, '$.model') AS model,
        json_extract(identities.identity, '$.base_url') AS base_url, identities.identity,
        json_insert(openings.messages, '$[#]', json(last_message)) AS messages,
        reply, finish_reason, requests.prompt_tokens, requests.completion_tokens,
        requests.estimated, claimed_at, answered_at, requests.seconds, batch
    FROM requests JOIN identities ON identities.id = requests.identity
        JOIN openings ON openings.id = requests.opening;

-- version 3
DROP TABLE owners;
DROP INDEX requests_claimed;
ALTER TABLE requests DROP COLUMN owner;
ALTER TABLE batches DROP COLUMN owner;
