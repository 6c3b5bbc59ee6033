BEGIN IMMEDIATE;

-- One row: a volume or a retained snapshot that was once seen in a watched cluster. It outlives the object: only so
-- can a leftover be told from another cluster's, and one that was kept on purpose from one that was forgotten.
CREATE TABLE memories (
    kind     TEXT    NOT NULL CHECK (kind IN ('volume', 'snapshot')),
    name     TEXT    NOT NULL,
    cluster  TEXT    NOT NULL,
    retained INTEGER NOT NULL CHECK (retained IN (0, 1)),
    at       INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX memories_by_time ON memories (at);

PRAGMA user_version = 2;
COMMIT;
