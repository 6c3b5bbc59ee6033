-- executescript() commits whatever is open before it starts, so the transaction is part of the script:
-- the schema and its number appear together, or not at all.
-- Times are microseconds since 1970 (UTC): exact, and in the right order.
BEGIN IMMEDIATE;

-- One row: a finding as it stands now. Pending findings are not kept: nobody has been told of them.
-- `document` is the truth; the columns beside it are what queries search by.
CREATE TABLE findings (
    fingerprint TEXT    NOT NULL PRIMARY KEY,
    document    TEXT    NOT NULL CHECK (json_valid(document)),
    rule        TEXT    NOT NULL GENERATED ALWAYS AS (json_extract(document, '$.rule')) VIRTUAL,
    source      TEXT    NOT NULL GENERATED ALWAYS AS (json_extract(document, '$.subject.source')) VIRTUAL,
    severity    TEXT    NOT NULL GENERATED ALWAYS AS (json_extract(document, '$.severity')) VIRTUAL,
    state       TEXT    NOT NULL GENERATED ALWAYS AS (json_extract(document, '$.state')) VIRTUAL
                CHECK (state IN ('open', 'held', 'resolved')),
    changed_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX findings_by_state ON findings (state, changed_at);
CREATE INDEX findings_by_change ON findings (changed_at);

-- One row: a finding went from one state to another, or was acknowledged; `document` is the finding as it
-- was then. The uniqueness makes recording the same batch twice harmless.
CREATE TABLE transitions (
    id           INTEGER NOT NULL PRIMARY KEY,
    fingerprint  TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    before       TEXT    NOT NULL CHECK (before IN ('', 'pending', 'open', 'held', 'resolved')),
    state        TEXT    NOT NULL CHECK (state IN ('pending', 'open', 'held', 'resolved')),
    acknowledged INTEGER NOT NULL CHECK (acknowledged IN (0, 1)),
    reason       TEXT    NOT NULL,
    document     TEXT    NOT NULL CHECK (json_valid(document)),
    UNIQUE (fingerprint, at, before, state, acknowledged)
) STRICT;
CREATE INDEX transitions_by_time ON transitions (at);

-- One row: one event of one occurrence of a finding, to be told to one receiver, and what became of it.
CREATE TABLE deliveries (
    seq         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,
    fingerprint TEXT    NOT NULL,
    occurrence  INTEGER NOT NULL,
    receiver    TEXT    NOT NULL,
    event       TEXT    NOT NULL CHECK (event IN ('firing', 'resolved')),
    reason      TEXT    NOT NULL,
    document    TEXT    NOT NULL CHECK (json_valid(document)),
    at          INTEGER NOT NULL,
    state       TEXT    NOT NULL DEFAULT 'pending'
                CHECK (state IN ('pending', 'delivered', 'dead', 'dropped')),
    attempts    INTEGER NOT NULL DEFAULT 0,
    next_at     INTEGER,
    error       TEXT    NOT NULL DEFAULT '',
    settled_at  INTEGER CHECK ((settled_at IS NULL) = (state = 'pending')),
    outcome     TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX deliveries_pending ON deliveries (receiver, seq) WHERE state = 'pending';
CREATE INDEX deliveries_by_finding ON deliveries (fingerprint, receiver, occurrence);
CREATE INDEX deliveries_by_settlement ON deliveries (settled_at) WHERE settled_at IS NOT NULL;

-- One row: from `at` on a source was in this state, until its next row.
CREATE TABLE source_states (
    id      INTEGER NOT NULL PRIMARY KEY,
    source  TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    state   TEXT    NOT NULL CHECK (state IN ('starting', 'connected', 'unreachable', 'refused')),
    detail  TEXT    NOT NULL,
    version TEXT    NOT NULL
) STRICT;
CREATE INDEX source_states_by_source ON source_states (source, id);
CREATE INDEX source_states_by_time ON source_states (at);

-- "ttly": tells our file from another program's that history.path might name by mistake.
PRAGMA application_id = 1953786985;
PRAGMA user_version = 1;
COMMIT;
