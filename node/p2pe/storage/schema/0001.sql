-- Version 1. Times are Unix milliseconds. BLOB lengths are in docs/protocol.md.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE contacts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    identity_key BLOB NOT NULL UNIQUE,
    pair_secret BLOB NOT NULL,
    pair_epoch INTEGER NOT NULL DEFAULT 1,
    next_secret BLOB,                     -- rotation, phase one: agreed but not yet confirmed
    rotated_at INTEGER NOT NULL,
    list_version INTEGER NOT NULL,        -- highest device-list version seen: lower ones are refused
    protocol_version INTEGER NOT NULL,    -- highest version seen: no way back to a lower one
    ticket BLOB,                          -- theirs: only they can open it; we hand it back when they restore
    paired_at INTEGER NOT NULL,
    verified INTEGER NOT NULL DEFAULT 0,
    blocked INTEGER NOT NULL DEFAULT 0,
    addresses TEXT NOT NULL DEFAULT '[]', -- JSON: the peer id and addresses that worked last
    last_seen INTEGER
) STRICT;

CREATE TABLE outgoing (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    contact_id INTEGER NOT NULL REFERENCES contacts(id) ON DELETE CASCADE,
    stream_id BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    since INTEGER NOT NULL,
    queued_at INTEGER NOT NULL,
    offered_at INTEGER,
    delivered_at INTEGER,
    read_at INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    body BLOB NOT NULL,                   -- serialized Content; emptied when retracted
    body_hash BLOB NOT NULL,
    expire_after INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT UNIQUE
) STRICT;
CREATE UNIQUE INDEX outgoing_order ON outgoing(contact_id, stream_id, sequence);
CREATE INDEX outgoing_waiting ON outgoing(contact_id, row) WHERE state IN ('queued', 'offered');

CREATE TABLE incoming (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL,
    contact_id INTEGER NOT NULL REFERENCES contacts(id) ON DELETE CASCADE,
    stream_id BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    sent_at INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    read_at INTEGER,
    body BLOB NOT NULL,
    body_hash BLOB NOT NULL,
    status INTEGER NOT NULL,              -- the ReceiptStatus that the sender is owed or has been sent
    receipt_owed INTEGER NOT NULL DEFAULT 1, -- 1 until a receipt of `status` was written to a live link
    expire_after INTEGER NOT NULL DEFAULT 0,
    UNIQUE (contact_id, id)
) STRICT;
CREATE INDEX incoming_owed ON incoming(contact_id) WHERE receipt_owed = 1;
CREATE INDEX incoming_unread ON incoming(contact_id, row) WHERE read_at IS NULL;

CREATE TABLE incoming_streams (
    contact_id INTEGER NOT NULL REFERENCES contacts(id) ON DELETE CASCADE,
    stream_id BLOB NOT NULL,
    last_sequence INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (contact_id, stream_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE invites (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,                   -- 'code' or 'link'
    handle BLOB NOT NULL UNIQUE,          -- 8 bytes in Hello.tag that name this invite
    locator TEXT NOT NULL,                -- '47-crossover' of a code; '' for a link
    password TEXT NOT NULL,               -- the other words; '' once it is closed
    secret BLOB NOT NULL,                 -- 16 bytes of a link; empty for a code or once it is closed
    name TEXT,                            -- how the person who comes will be called here
    guesses_left INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    state TEXT NOT NULL,                  -- 'open', 'paired', 'expired', 'spent', 'revoked'
    contact_id INTEGER REFERENCES contacts(id) ON DELETE SET NULL
) STRICT;

CREATE TABLE guesses (                    -- ours, on other people's codes: 3 a code, whatever restarts
    locator TEXT NOT NULL,
    day TEXT NOT NULL,
    spent INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    PRIMARY KEY (locator, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE peers (                      -- DHT servers we have known, so that a restart needs no bootstrap node
    peer_id BLOB PRIMARY KEY,
    addresses TEXT NOT NULL,
    last_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
