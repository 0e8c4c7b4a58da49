-- Version 2: retraction, edits and expiry. Partial indices: rows that need none of this cost nothing.

CREATE INDEX outgoing_retracting ON outgoing(contact_id, row) WHERE state = 'retracted' AND reason = 'retracting';
CREATE INDEX outgoing_held ON outgoing(contact_id, row) WHERE state = 'held_identity';
CREATE INDEX outgoing_expiring ON outgoing(row) WHERE expire_after > 0 AND state IN ('delivered', 'read');
CREATE INDEX incoming_expiring ON incoming(row) WHERE expire_after > 0 AND read_at IS NOT NULL;

-- Pages of one contact's history, in order.
CREATE INDEX outgoing_history ON outgoing(contact_id);
CREATE INDEX incoming_history ON incoming(contact_id);

CREATE TABLE edits (                      -- which messages replace the text of which: history, and retraction of all
    contact_id INTEGER NOT NULL REFERENCES contacts(id) ON DELETE CASCADE,
    ours INTEGER NOT NULL,                -- 1: both are in outgoing, 0: in incoming
    target BLOB NOT NULL,
    edit BLOB NOT NULL,
    PRIMARY KEY (contact_id, ours, target, edit)
) STRICT, WITHOUT ROWID;
