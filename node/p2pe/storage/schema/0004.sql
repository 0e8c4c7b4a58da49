-- Version 4: rotation of pair secrets, revoked devices, and contacts who come back to a restored node.

ALTER TABLE contacts ADD COLUMN next_epoch INTEGER NOT NULL DEFAULT 1;      -- of next_secret
ALTER TABLE contacts ADD COLUMN contribution BLOB;                          -- ours to a rotation that isn't over
ALTER TABLE contacts ADD COLUMN revoked BLOB NOT NULL DEFAULT x'';          -- device keys, 32 bytes each, joined

CREATE TABLE requests (                   -- contacts of before who came with a ticket of ours, for approval
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    identity_key BLOB NOT NULL UNIQUE,
    petname TEXT NOT NULL,                -- what we called them, says the ticket
    met_at INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    state TEXT NOT NULL,                  -- 'waiting', 'approved', 'refused'
    name TEXT                             -- chosen at approval; else the petname
) STRICT;
