-- A finding that is not resolved keeps its whole story.
DELETE FROM transitions WHERE id IN (
    SELECT t.id FROM transitions t
    LEFT JOIN findings f ON f.fingerprint = t.fingerprint
    WHERE t.at < :before AND (f.state IS NULL OR f.state = 'resolved')
    LIMIT :limit
);
