-- Keeps a source's state where it differs from the last one kept.
INSERT INTO source_states (source, kind, at, state, detail, version)
SELECT :source, :kind, :at, :state, :detail, :version
WHERE NOT EXISTS (
    SELECT 1 FROM source_states last
    WHERE last.id = (SELECT max(id) FROM source_states WHERE source = :source)
      AND last.state = :state AND last.detail = :detail AND last.version = :version
);
