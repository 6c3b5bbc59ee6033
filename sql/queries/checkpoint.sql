-- Moves the write-ahead log into the database, so that the file alone is the history.
PRAGMA wal_checkpoint(TRUNCATE);
