-- Version 5: what became of messages to us after they had arrived, for whoever follows the inbox with a cursor.

CREATE TABLE endings (                        -- messages that were taken back or have expired, in that order
    number INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice, whatever is removed: a cursor misses nothing
    row INTEGER NOT NULL UNIQUE REFERENCES incoming(row) ON DELETE CASCADE
) STRICT;
INSERT INTO endings (row) SELECT row FROM incoming WHERE ended_at IS NOT NULL AND stream_id <> x'' ORDER BY ended_at, row;

CREATE TRIGGER incoming_ends AFTER UPDATE OF ended_at ON incoming
WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.stream_id <> x''
BEGIN
    INSERT INTO endings (row) VALUES (NEW.row);
END;
