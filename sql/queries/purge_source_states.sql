-- The last state of each source stays.
DELETE FROM source_states WHERE id IN (
    SELECT s.id FROM source_states s
    WHERE s.at < :before
      AND EXISTS (SELECT 1 FROM source_states later WHERE later.source = s.source AND later.id > s.id)
    LIMIT :limit
);
