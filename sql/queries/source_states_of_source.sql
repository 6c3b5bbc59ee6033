-- The latest changes of one source's state, newest first.
SELECT source, kind, at, state, detail, version FROM source_states
WHERE source = :source ORDER BY id DESC LIMIT :limit;
