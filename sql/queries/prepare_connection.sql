-- FULL: in WAL mode only this syncs the log at every commit, so that what was acknowledged survives a power cut.
PRAGMA busy_timeout = 5000;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA journal_size_limit = 67108864;
PRAGMA temp_store = MEMORY;
