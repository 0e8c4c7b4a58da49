-- Version 3: how messages to us ended, deadlines of what counts down, and who is told of reading.

ALTER TABLE contacts ADD COLUMN tells_reading INTEGER NOT NULL DEFAULT 0;  -- 1: gets receipts of reading
UPDATE contacts SET tells_reading = 1 WHERE 'tells_reading/' || id IN (SELECT key FROM meta);
DELETE FROM meta WHERE key BETWEEN 'tells_reading/' AND 'tells_reading/~';

ALTER TABLE incoming ADD COLUMN ended_at INTEGER;    -- when it was taken back or expired here
ALTER TABLE incoming ADD COLUMN expires_at INTEGER;  -- by our clock, from reading on
ALTER TABLE outgoing ADD COLUMN expires_at INTEGER;  -- by our clock, from delivery on
UPDATE incoming SET ended_at = coalesce(read_at, received_at) WHERE body = x'';
UPDATE incoming SET expires_at = read_at + expire_after WHERE expire_after > 0 AND read_at IS NOT NULL AND body <> x'';
UPDATE outgoing SET expires_at = delivered_at + expire_after WHERE expire_after > 0 AND state IN ('delivered', 'read');

DROP INDEX incoming_unread;
CREATE INDEX incoming_unread ON incoming(contact_id, row) WHERE read_at IS NULL AND ended_at IS NULL;
DROP INDEX incoming_expiring;
CREATE INDEX incoming_expiring ON incoming(expires_at) WHERE expires_at IS NOT NULL;
DROP INDEX outgoing_expiring;
CREATE INDEX outgoing_expiring ON outgoing(expires_at) WHERE expires_at IS NOT NULL;
