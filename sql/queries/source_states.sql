-- The latest changes of the sources' states, newest first.
SELECT source, kind, at, state, detail, version FROM source_states ORDER BY id DESC LIMIT :limit;
